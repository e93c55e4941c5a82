"""Windows, sinks, several rotations, shared K and V, and latent attention, in the engine for transformers models."""

from __future__ import annotations

from pathlib import Path

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.models import WINDOWS
from tests.conformance.own import OwnEngine
from tests.conformance.which import models


class TestWindows(OwnEngine):
    models = models(WINDOWS, "gpt-oss", "gemma3", "gemma4", "llama4", "glm4-moe-lite")

    def open(self, path: Path) -> Engine:
        return TransformersEngine.load(path, device="cpu", dtype="float32")
