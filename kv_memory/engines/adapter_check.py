"""Check whether a saved LoRA fits a model, from its files, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kv_memory.errors import ModelError

WEIGHTS = "adapter_model.safetensors"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules that an eraser's LoRA may adapt, those of the published eraser (KVEraser, arXiv 2606.17034)."""
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_LAYER = re.compile(r"\.(\d+)\.")


def check_adapter(model: Any, path: str) -> None:
    """Raise ModelError where the directory holds no LoRA of PEFT, or one for other layers, sizes or another rank."""
    config, shapes = read_adapter(path)
    _check_layers(model, path, config, shapes)
    for (module, side), (rows, columns) in shapes.items():
        rank, size = (rows, columns) if side == "A" else (columns, rows)
        if rank != config.r and not config.rank_pattern:
            raise ModelError(
                f"The adapter {path} has rank {rank} in its weights and {config.r} in its adapter_config.json; save it "
                "again with PEFT's save_pretrained."
            )
        try:
            layer = model.get_submodule(module)
        except AttributeError as error:
            raise ModelError(
                f"The adapter {path} is for another architecture: this model has no {module}; use one that was trained "
                "for it."
            ) from error
        here = getattr(layer, "in_features" if side == "A" else "out_features", size)
        if size != here:
            hidden = ", the hidden size," if here == model.config.get_text_config(decoder=True).hidden_size else ""
            raise ModelError(
                f"The adapter {path} is for a model of other sizes ({module} {'takes' if side == 'A' else 'gives'} "
                f"{size} numbers there and {here}{hidden} here); use one that was trained for it."
            )


def read_adapter(path: str) -> tuple[Any, dict[tuple[str, str], tuple[int, int]]]:
    """Read the config and weight shapes of a LoRA saved by PEFT.

    Returns PEFT's config, and by module and side (A or B) the shape of the weights. Raises ModelError.
    """
    from peft import PeftConfig, PeftType
    from safetensors import SafetensorError, safe_open

    try:
        config = PeftConfig.from_pretrained(path)
        with safe_open(Path(path) / WEIGHTS, "pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (AttributeError, KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"Cannot load {path!r} as an adapter ({reason}); give a directory saved with PEFT's save_pretrained."
        ) from error
    matches = [(_KEY.match(key), shape) for key, shape in found.items()]
    shapes = {(match["module"], match["side"]): shape for match, shape in matches if match and len(shape) == 2}
    if config.peft_type != PeftType.LORA or not shapes:
        raise ModelError(f"The adapter {path} is not a LoRA; give one saved with PEFT's save_pretrained.")
    return config, shapes


def _check_layers(model: Any, path: str, config: Any, shapes: dict[tuple[str, str], tuple[int, int]]) -> None:
    numbers = {int(match[1]) for module, _ in shapes if (match := _LAYER.search(f".{module}."))}
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    there = max(numbers, default=-1) + 1
    if there > depth or (there < depth and config.layers_to_transform is None):
        raise ModelError(
            f"The adapter {path} is for a model of {there} layers and this one has {depth}; use one that was trained "
            "for it."
        )
