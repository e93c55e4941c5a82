"""Tiny random models of the architectures that are converted, with wide enough heads and rows for each dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.testing.models import CONFIGS

NAMES = ["llama", "llama-mha-llama3", "llama-linear", "qwen2", "qwen3", "qwen3-yarn"]


def random_model(name: str, **settings: Any) -> Any:
    """One of the conformance models, float32; every parameter random, so that none can stand in for another."""
    torch.manual_seed(NAMES.index(name))
    config = CONFIGS[name]()
    for key, value in settings.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms start as ones and biases as zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a GGUF file as float32, in numpy's order of axes."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        rows = gguf.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = rows.reshape(tensor.shape[::-1].astype(np.int64))
    return found


def metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
