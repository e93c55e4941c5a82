"""The engine over models of transformers with recurrent layers."""

from __future__ import annotations

from pathlib import Path

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import RecurrentEngine
from kv_memory.testing.conformance import EngineConformance
from kv_memory.testing.models import CHAT_HYBRID, HYBRIDS
from tests.conformance.which import models


class TestRecurrent(EngineConformance):
    models = models(HYBRIDS, "qwen3_5", "falcon_h1", "lfm2")
    chat = CHAT_HYBRID

    def open(self, path: Path) -> Engine:
        return RecurrentEngine.load(path, device="cpu", dtype="float32")
