"""The engine over llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from safetensors.torch import load_file, save_file

from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AdapterPass
from kv_memory.erasers.steering import Steering, steer_with
from kv_memory.errors import UnsupportedOperationError
from kv_memory.gguf import export_model
from kv_memory.gguf.architecture import ARCHITECTURES
from kv_memory.positions import Interval
from kv_memory.testing.conformance import Case, EngineConformance
from kv_memory.testing.conformance.case import needs
from kv_memory.testing.gguf_models import convert, convert_lora
from kv_memory.testing.models import CHAT_HYBRID, CONFIGS
from tests.conformance.own import OwnEngine
from tests.conformance.which import models

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
        converted = path / "model.gguf"
        if not converted.exists():
            export_model(path, converted, "f32")
        return load(converted)


def without_feed_forward(weights: Path) -> None:
    """Let the last product of each feed-forward layer be zero."""
    rows = {name: rows * ("down_proj" not in name) for name, rows in load_file(weights).items()}
    save_file(rows, weights, {"format": "pt"})


class TestWindows(EngineConformance):
    """Sliding windows, sinks, a rotation of each kind of layer and layers without one, and latent attention."""

    models = models(("gemma3", "gpt-oss", "olmo3", "cohere2", "glm4-moe-lite"), "gemma3", "gpt-oss")
    repeats = False

    def save(self, model: str, folder: Path) -> Path:
        """NOTE: llama.cpp looks Gemma's GELU up in a table of 16-bit numbers, in which a last bit becomes a thousandth:
        here its feed-forward layers add nothing (they are compared in tests/gguf)."""
        path = super().save(model, folder)
        if model == "gemma3":
            without_feed_forward(path / "model.safetensors")
        return path

    def open(self, path: Path) -> Engine:
        converted = path / "model.gguf"
        if not converted.exists():
            chat = json.loads((path / "config.json").read_text())["model_type"] in ARCHITECTURES
            export_model(path, converted, "f32") if chat else convert(path, converted)
        return load(converted)

    def load_eraser(self, engine: Engine, model: Path, lora: Path) -> None:
        if engine.config["model_type"] in ARCHITECTURES:
            super().load_eraser(engine, model, lora)
            return
        if engine.config["model_type"] == "gemma3":
            without_feed_forward(lora / "adapter_model.safetensors")
        cast(AdapterPass, engine).load_adapter(str(convert_lora(lora, model, model / "eraser.gguf")), "eraser")
        steer_with(cast(AdapterPass, engine), Steering("eraser"))

    @needs("adapters", "rows")
    @pytest.mark.parametrize("span", [(20, 33), (0, 12)], ids=["middle", "start"])
    def test_a_span_gets_the_rows_that_the_adapted_model_writes(
        self, case: Case, ids: list[int], span: Interval
    ) -> None:
        if case.name == "cohere2":
            pytest.skip("its keys turn in pairs of neighbours, which are shown half a head apart here")
        super().test_a_span_gets_the_rows_that_the_adapted_model_writes(case, ids, span)


class TestRecurrent(EngineConformance):
    models = ("qwen3_5", "lfm2")
    chat = CHAT_HYBRID

    def open(self, path: Path) -> Engine:
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
        from kv_memory.engines.llama_cpp import LlamaCppRecurrentEngine

        converted = path / "model.gguf"
        if not converted.exists():
            convert(path, converted)
        return LlamaCppRecurrentEngine.load(converted, dtype="float32")

    def test_prefill_at_given_positions_equals_a_plain_pass_there(self, case: Case, ids: list[int]) -> None:
        self._a_hole_is_refused(case)

    def test_positions_and_tokens_are_those_that_were_appended(self, one_case: Case, ids: list[int]) -> None:
        self._a_hole_is_refused(one_case)

    def _a_hole_is_refused(self, case: Case) -> None:
        """Recomputing leaves none, so that sessions never ask for one."""
        engine, seq = case.engine, case.sequence([1, 2, 3])
        with pytest.raises(UnsupportedOperationError, match="right after the last one, at position 3"):
            engine.prefill(seq, [4, 5], [5, 6])
        assert engine.cells(seq) == [(0, 1), (1, 2), (2, 3)]
