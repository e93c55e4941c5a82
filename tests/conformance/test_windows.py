"""Windows, sinks, several rotations, shared K and V, and latent attention, in the engine for transformers models."""

from __future__ import annotations

import os
from pathlib import Path

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.models import WINDOWS
from tests.conformance.own import OwnEngine

REPRESENTATIVE = ("gemma3", "gemma4", "gpt-oss", "llama4", "glm4-moe-lite")
"""One of each kind; `make nightly` reads all."""


class TestWindows(OwnEngine):
    models = tuple(WINDOWS) if os.environ.get("KV_MEMORY_ALL_MODELS") else REPRESENTATIVE

    def open(self, path: Path) -> Engine:
        return TransformersEngine.load(path, device="cpu", dtype="float32")
