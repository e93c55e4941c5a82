"""Random erasers on disk, and an engine with one."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model
from kv_memory.trained.files import open_eraser
from kv_memory.trained.record import EraserRecord
from tests.tiny import tiny_engine

PUBLISHED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What the published eraser adapts, with rank 16 and alpha 32."""


def save_eraser(engine: Engine, model: Any, folder: Path, **record: Any) -> Path:
    """The same with an eraser.json for this engine."""
    save_lora(model, folder)
    EraserRecord.of(engine, **record).save(folder)
    return folder


def steering_engine(slots: int | None = None, max_positions: int = 2048, *, closes: bool = False) -> TransformersEngine:
    """The tiny engine with a random eraser loaded."""
    engine = tiny_engine(max_positions=max_positions)
    with TemporaryDirectory() as folder:
        open_eraser(save_eraser(engine, tiny_model(), Path(folder), slots=slots, closes=closes)).load(engine)
    return engine
