"""An engine that has the core alone runs the suite too; what it lacks is skipped."""

from __future__ import annotations

from pathlib import Path

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.conformance import EngineConformance
from tests.core_only import CoreEngine


class TestCoreOnly(EngineConformance):
    models = ("qwen3", "llama")

    def open(self, path: Path) -> Engine:
        return CoreEngine(TransformersEngine.load(path, device="cpu", dtype="float32"))
