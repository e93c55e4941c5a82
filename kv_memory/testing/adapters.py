"""Random LoRA adapters on disk, made by the peft library."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model


def save_lora(
    model: Any, folder: Path, *, rank: int = 4, targets: str | list[str] = "all-linear", base: str | None = None
) -> Path:
    """Save a random LoRA of a copy of this model, as PEFT saves it; return the folder."""
    torch.manual_seed(3)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):  # PEFT uses an old name of transformers
        adapted = get_peft_model(deepcopy(model), config)
    adapted.save_pretrained(folder)
    # NOTE: written afterwards, since PEFT would ask the hub for a model of this name.
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return folder
