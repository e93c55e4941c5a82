"""The llama.cpp engine on small models; skips, saying so, where llama-cpp-python is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.gguf import export_model
from kv_memory.testing.models import save_model
from tests.tiny import save_tiny


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The GGUF file, float32, of a conformance model, or of the `tiny` one with a ChatML tokenizer."""
    made: dict[str, Path] = {}

    def convert(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (save_tiny if name == "tiny" else lambda at: save_model(name, at))(folder)
            made[name] = folder / "model.gguf"
            export_model(folder, made[name], "f32")
        return made[name]

    return convert


@pytest.fixture
def engine(converted: Callable[[str], Path]) -> Callable[..., LlamaCppEngine]:
    """Makes an engine of a model, in float32 where nothing else is said."""

    def make(name: str = "qwen3", **settings: Any) -> LlamaCppEngine:
        return LlamaCppEngine.load(converted(name), **{"dtype": "float32", **settings})

    return make
