"""The engine over llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_memory.engines.base import Engine
from kv_memory.testing.models import CONFIGS
from tests.conformance.own import OwnEngine

NOT_CONVERTED = {"mistral", "gemma-mqa", "phi3-partial"}
"""Architectures that kv_memory does not convert to GGUF."""


class TestLlamaCpp(OwnEngine):
    models = tuple(model for model in CONFIGS if model not in NOT_CONVERTED)
    repeats = False  # it adds up in the order in which cells lie in a cache that all sequences share

    def open(self, path: Path) -> Engine:
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
        from kv_memory.engines.llama_cpp import LlamaCppEngine
        from kv_memory.gguf import export_model

        converted = path / "model.gguf"
        if not converted.exists():
            export_model(path, converted, "f32")
        return LlamaCppEngine.load(converted, dtype="float32")
