"""Every module can be the first one that is imported, and importing the public names is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kv_memory

TRY_EACH = """
import importlib, os, sys
import peft, torch, transformers, typer  # what takes long, once
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be imported first")
"""

HEAVY = ("torch", "transformers", "peft", "safetensors", "tokenizers", "huggingface_hub", "llama_cpp", "gguf", "numpy")


@pytest.mark.timeout(1200)  # hundreds of processes: half a minute of computing, many times that on a busy machine
def test_every_module_can_be_imported_first() -> None:
    package = Path(kv_memory.__file__).parent
    paths = [path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    done = subprocess.run([sys.executable, "-c", TRY_EACH, *names], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("line", ["from kv_memory import *", "import kv_memory.cli.app"])
def test_the_public_names_load_no_library_that_runs_models(line: str) -> None:
    """They take seconds to import; who makes a Memory needs them, who reads an audit log or a help text does not."""
    code = f"import sys\n{line}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
