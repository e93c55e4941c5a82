"""A random model in Q8_0, written without its weights ever being numbers: for timing llama.cpp at a real model's size.

    python -m benchmarks.random_gguf OUT [--vocabulary 151936]

The shape is Qwen2.5-0.5B's; the tokenizer is the embedded model's, so that both read the same ids. The file has 529 MB,
and 389 MB with a vocabulary of 8,192. What it says means nothing.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, Qwen2Config

from kv_memory.gguf.base_model import BaseModel
from kv_memory.gguf.model import write_model
from kv_memory.gguf.writer import Planned
from kv_memory.pocket import model_path

DEVIATION = 0.02
"""Standard deviation of the weights, as transformers initialises them."""


def random_gguf(out: Path, *, vocabulary: int = 151_936, layers: int = 24, seed: int = 0) -> Path:
    """Write the model and return its path; the same for the same arguments.

    Raises KVMemoryError where it cannot be written.
    """
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    numbers = np.random.default_rng(seed)
    model = BaseModel(f"random-{layers}x896", None, None, config)
    write_model(out, model, tokenizer, "q8_0", lambda tensor: _random(tensor, numbers), stops=[tokenizer.eos_token_id])
    return out


def _random(tensor: Planned, numbers: np.random.Generator) -> NDArray[Any]:
    """Return a norm of ones, a bias of zeros, or rows of Q8_0: blocks of a float16 scale and 32 bytes, [rows,
    bytes]."""
    if tensor.kind == gguf.GGMLQuantizationType.F32:
        return np.full(tensor.shape, 0.0 if tensor.name.endswith(".bias") else 1.0, np.float32)
    assert tensor.kind == gguf.GGMLQuantizationType.Q8_0, "the sizes are multiples of 32"
    blocks = numbers.integers(-127, 128, (math.prod(tensor.shape) // 32, 34), np.int8)
    blocks.view(np.float16)[:, 0] = DEVIATION / np.sqrt((255**2 - 1) / 12)
    return blocks.view(np.uint8).reshape(tensor.shape[0], -1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A random model of Qwen2.5-0.5B's shape in Q8_0, as a GGUF file.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="tokens, at least the embedded model's 8,192")
    arguments = parser.parse_args()
    random_gguf(arguments.out, vocabulary=arguments.vocabulary)
