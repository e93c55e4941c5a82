"""Real models for tests: where the file is not at hand, the test is skipped and the reason says how to get it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kv_memory.gguf.cache import cache_folder

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN = "Qwen2.5-Coder-0.5B-Instruct"


def smollm2_path() -> Path:
    """Return where scripts/fetch_smollm2.py keeps the file of SmolLM2-135M-Instruct, in the user's cache."""
    return cache_folder() / SMOLLM2


def smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct; skip the test where it is missing."""
    return _found(smollm2_path(), f"needs {SMOLLM2} in the user's cache: python scripts/fetch_smollm2.py (93 MB)")


def qwen() -> Path:
    """Return the GGUF file of Qwen2.5-Coder-0.5B-Instruct; skip the test where KV_MEMORY_QWEN_GGUF does not name it."""
    named = os.environ.get("KV_MEMORY_QWEN_GGUF", "")
    return _found(
        Path(named), f"needs KV_MEMORY_QWEN_GGUF=FILE: hf download Qwen/{QWEN}-GGUF {QWEN.lower()}-q4_k_m.gguf"
    )


def _found(path: Path, otherwise: str) -> Path:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    if not path.is_file():
        pytest.skip(otherwise)
    return path
