"""Importing the package is cheap."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import langchain_core.language_models, langchain_core.messages, langchain_core.runnables, langchain_core.tracers
theirs = set(sys.modules)  # some versions of langchain-core import transformers themselves
import langchain_kv_memory
heavy = ("torch", "transformers", "peft", "safetensors", "huggingface_hub", "llama_cpp", "llguidance", "numpy")
print(*(name for name in heavy if name in sys.modules and name not in theirs))
"""


def test_the_package_loads_no_library_that_runs_models() -> None:
    """Of itself: they take seconds to import, and are needed by who makes a chat model."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
