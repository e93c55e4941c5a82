"""The engine over llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AdapterPass
from kv_memory.erasers.steering import Steering, steer_with
from kv_memory.testing.conformance import EngineConformance
from kv_memory.testing.gguf_models import convert, convert_lora
from kv_memory.testing.models import CONFIGS
from tests.conformance.own import OwnEngine

NOT_CONVERTED = {"mistral", "gemma-mqa", "phi3-partial"}
"""Architectures that kv_memory does not convert to GGUF."""


def load(path: Path) -> Engine:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    from kv_memory.engines.llama_cpp import LlamaCppEngine

    return LlamaCppEngine.load(path, dtype="float32")


class TestLlamaCpp(OwnEngine):
    models = tuple(model for model in CONFIGS if model not in NOT_CONVERTED)
    repeats = False  # it adds up in the order in which cells lie in a cache that all sequences share

    def open(self, path: Path) -> Engine:
        from kv_memory.gguf import export_model

        converted = path / "model.gguf"
        if not converted.exists():
            export_model(path, converted, "f32")
        return load(converted)


class TestWindows(EngineConformance):
    """Sliding windows, sinks, a rotation of each kind of layer and layers without one, and latent attention."""

    models = ("gemma3", "gpt-oss", "olmo3", "cohere2", "glm4-moe-lite")
    repeats = False

    def save(self, model: str, folder: Path) -> Path:
        """NOTE: llama.cpp looks Gemma's GELU up in a table of 16-bit numbers, in which a last bit becomes a thousandth:
        here its feed-forward layers add nothing (they are compared in tests/gguf)."""
        path = super().save(model, folder)
        if model == "gemma3":
            weights = load_file(path / "model.safetensors")
            without = {name: torch.zeros_like(rows) if "down_proj" in name else rows for name, rows in weights.items()}
            save_file(without, path / "model.safetensors", {"format": "pt"})
        return path

    def open(self, path: Path) -> Engine:
        converted = path / "model.gguf"
        if not converted.exists():
            convert(path, converted)
        return load(converted)

    def load_eraser(self, engine: Engine, model: Path, lora: Path) -> None:
        cast(AdapterPass, engine).load_adapter(str(convert_lora(lora, model, model / "eraser.gguf")), "eraser")
        steer_with(cast(AdapterPass, engine), Steering("eraser"))
