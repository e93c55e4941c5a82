"""Random LoRA adapters and erasers on disk, made by the peft library."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.trained.files import open_eraser
from kv_memory.trained.record import EraserRecord
from tests.tiny import tiny_engine, tiny_model

PUBLISHED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What the published eraser adapts, with rank 16 and alpha 32."""


def save_lora(
    model: Any, folder: Path, *, rank: int = 4, targets: str | list[str] = "all-linear", base: str | None = None
) -> Path:
    """A random LoRA of a copy of this model, as PEFT saves it."""
    torch.manual_seed(3)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):  # PEFT uses an old name of transformers
        adapted = get_peft_model(deepcopy(model), config)
    adapted.save_pretrained(folder)
    # Written afterwards: PEFT would ask the hub for a model of this name.
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return folder


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
