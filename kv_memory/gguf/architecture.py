"""The model architectures that can be converted: llama.cpp's names for their parts, and the order of rows that it
wants.

llama.cpp rotates Llama's queries and keys in pairs of neighbours, transformers in pairs half a head apart: the rows of
their projections have to be reordered. Qwen's are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from kv_memory.errors import UnsupportedModelError

ARCHITECTURES = {
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "llama": gguf.MODEL_ARCH.LLAMA,
}
"""GGUF architectures by `model_type` of a transformers config; llama.cpp uses the same names."""
_SIZES = {
    "{arch}.context_length": "max_position_embeddings",
    "{arch}.embedding_length": "hidden_size",
    "{arch}.block_count": "num_hidden_layers",
    "{arch}.feed_forward_length": "intermediate_size",
    "{arch}.attention.head_count": "num_attention_heads",
    "{arch}.attention.head_count_kv": "num_key_value_heads",
    "{arch}.attention.key_length": "head_dim",
    "{arch}.attention.value_length": "head_dim",
    "{arch}.vocab_size": "vocab_size",
}


def architecture(config: Any, converter: str) -> str:
    """Return llama.cpp's name of a text config's architecture.

    Raises UnsupportedModelError, which names the `converter` to use instead.
    """
    if config.model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"Models of type {config.model_type} are not converted here, only {', '.join(ARCHITECTURES)}; use "
            f"llama.cpp's {converter}."
        )
    return str(config.model_type)


def sizes(config: Any) -> dict[str, int]:
    """Return a text config's sizes, under the keys of GGUF metadata."""
    given = {key.format(arch=config.model_type): getattr(config, name, None) for key, name in _SIZES.items()}
    head_dim = config.hidden_size // config.num_attention_heads
    return {key: int(value or head_dim) for key, value in given.items()}


def config_of(metadata: Mapping[str, Any]) -> Any:
    """Return a transformers config with the sizes from GGUF metadata; other settings are the defaults of its type.

    Raises UnsupportedModelError for architectures that are not in ARCHITECTURES, KeyError for missing sizes.
    """
    arch = metadata["general.architecture"]
    if arch not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"Erasers are not converted here for GGUF models of architecture {arch}, only {', '.join(ARCHITECTURES)}; "
            "use llama.cpp's convert_lora_to_gguf.py."
        )
    found: dict[str, Any] = {name: metadata.get(key.format(arch=arch)) for key, name in _SIZES.items()}
    found["vocab_size"] = found["vocab_size"] or len(metadata["tokenizer.ggml.tokens"])
    found["num_key_value_heads"] = found["num_key_value_heads"] or found["num_attention_heads"]
    found["head_dim"] = found["head_dim"] or found["hidden_size"] // found["num_attention_heads"]
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise KeyError(f"it does not say its {missing[0]}")
    return AutoConfig.for_model(arch, **found)


def skeleton(config: Any) -> Any:
    """Return the config's model on the meta device: names and shapes of its parameters, without memory for weights."""
    with torch.device("meta"):
        # transformers makes this dtype the process's default meanwhile: another one would meet other threads.
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def tensor_names(config: Any, parameters: list[str]) -> dict[str, str]:
    """Return GGUF's name of each parameter. Raises UnsupportedModelError for one that llama.cpp has no place for."""
    known = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    names = {parameter: known.get_name(parameter, (".weight", ".bias")) for parameter in parameters}
    for parameter, name in names.items():
        if name is None or (name.endswith("attn_output.bias") and config.model_type != "llama"):
            raise UnsupportedModelError(f"llama.cpp has no place for {parameter} in a {config.model_type} model.")
    return {parameter: name for parameter, name in names.items() if name is not None}


def reorder(config: Any, parameter: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Return a parameter, or the B matrix of its LoRA, [rows, ...], with its rows in llama.cpp's order."""
    projection = re.search(r"\.([qk])_proj\.", parameter)
    if config.model_type != "llama" or projection is None:
        return rows
    heads = config.num_attention_heads if projection[1] == "q" else config.num_key_value_heads
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
