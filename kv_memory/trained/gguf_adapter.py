"""Writing a LoRA saved by PEFT as a GGUF adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
from numpy.typing import NDArray
from peft import LoraConfig
from safetensors import safe_open

from kv_memory.engines.adapter_check import PROJECTIONS, WEIGHTS, check_adapter, read_adapter
from kv_memory.errors import ModelError
from kv_memory.gguf.architecture import architecture, reorder, skeleton, tensor_names
from kv_memory.gguf.base_model import ERASER_KEY, BaseModel
from kv_memory.gguf.writer import Planned, write_file
from kv_memory.trained.record import EraserRecord

_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
"""Settings of PEFT's LoraConfig that a GGUF adapter does not need: they do not change what the LoRA computes, or this
module and the shapes of the weights take account of them."""
_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to initialise a LoRA that leave the base model's weights unchanged."""


def write_adapter(folder: Path, record: EraserRecord, model: BaseModel, out: Path) -> None:
    """Write the LoRA in this folder as a GGUF adapter for a model, in float32, with its record under ERASER_KEY.

    Raises ModelError for a LoRA that does not fit the model or that a GGUF adapter cannot hold, UnsupportedModelError
    for other architectures than Qwen3, Qwen2 and Llama, KVMemoryError where `out` cannot be written.
    """
    arch = architecture(model.config, "convert_lora_to_gguf.py")
    config, shapes = read_adapter(str(folder))
    _check_settings(folder, config)
    check_adapter(skeleton(model.config), str(folder))
    modules = _modules(folder, shapes)

    writer = gguf.GGUFWriter(None, arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # NOTE: llama.cpp scales a LoRA by alpha / rank; a rank-stabilised one needs alpha / sqrt(rank).
    writer.add_float32(
        gguf.Keys.Adapter.LORA_ALPHA, config.lora_alpha * (math.sqrt(config.r) if config.use_rslora else 1)
    )
    writer.add_string(ERASER_KEY, record.model_dump_json())
    names = tensor_names(model.config, [f"{module}.weight" for module in modules])
    planned, sources = [], {}
    for module in modules:
        for side in "AB":
            tensor = Planned(
                f"{names[f'{module}.weight']}.lora_{side.lower()}", shapes[module, side], gguf.GGMLQuantizationType.F32
            )
            planned.append(tensor)
            sources[tensor.name] = module, side
    with safe_open(folder / WEIGHTS, "pt") as file:

        def encode(tensor: Planned) -> NDArray[Any]:
            module, side = sources[tensor.name]
            rows: NDArray[Any] = file.get_tensor(_key(module, side)).float().numpy()
            return reorder(model.config, f"{module}.", rows) if side == "B" else rows

        write_file(out, writer, planned, encode)


def _key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def _check_settings(folder: Path, config: Any) -> None:
    plain = LoraConfig()
    for name, value in vars(config).items():
        if name not in _HARMLESS and value and value != getattr(plain, name, None):
            raise ModelError(
                f"The eraser {folder} uses {name}, which a GGUF adapter cannot hold; train a LoRA without it."
            )
    if config.init_lora_weights not in _STARTS:
        raise ModelError(
            f"The eraser {folder} was started with {config.init_lora_weights}, which changes the base model's weights "
            "too; train a LoRA without it."
        )
    if config.lora_alpha <= 0:
        raise ModelError(
            f"The eraser {folder} has lora_alpha {config.lora_alpha}: it would do nothing; train it again."
        )


def _modules(folder: Path, shapes: dict[tuple[str, str], tuple[int, int]]) -> list[str]:
    """Return the adapted modules, each with A and B and nothing else. Raises ModelError."""
    modules = list(dict.fromkeys(module for module, _ in shapes))
    for module in modules:
        if module.rpartition(".")[2] not in PROJECTIONS:
            raise ModelError(
                f"The eraser {folder} adapts {module}, which a GGUF adapter does not; train a LoRA of "
                f"{', '.join(PROJECTIONS)}."
            )
    expected = {_key(module, side) for module in modules for side in "AB"}
    with safe_open(folder / WEIGHTS, "pt") as file:
        there = set(file.keys())
    for name in sorted(there ^ expected):
        problem = "has a tensor" if name in there else "has no tensor"
        raise ModelError(
            f"The eraser {folder} {problem} {name}; a GGUF adapter holds pairs of lora_A and lora_B alone."
        )
    return modules
