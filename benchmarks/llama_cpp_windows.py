"""Memory of K and V in llama.cpp for models with windows: whole, as kv_memory keeps them, and cut to the window.

    python -m benchmarks.llama_cpp_windows [--context 32768]

A model of each shape is written with small random weights: K and V are of the size of the real one's. What they take is
what llama.cpp logs when it makes the context, in float16.
"""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np

from benchmarks.record import environment, save
from kv_memory.engines.llama_cpp.library import forget_errors, library
from kv_memory.engines.llama_cpp.model import Model

SHAPES: dict[str, dict[str, int]] = {
    "Gemma 3 1B": {"layers": 26, "kv_heads": 1, "head_dim": 256, "window": 512, "every": 6},
    "Gemma 3 4B": {"layers": 34, "kv_heads": 4, "head_dim": 256, "window": 1024, "every": 6},
    "Gemma 3 12B": {"layers": 48, "kv_heads": 8, "head_dim": 256, "window": 1024, "every": 6},
}
"""Layers, sizes and window; one layer in `every` sees all."""
WIDTH, VOCABULARY = 32, 64
SIZE = re.compile(r"KV buffer size = +([\d.]+) MiB")


class _Sizes(logging.Handler):
    """Collects the sizes of K and V that the library logs, in MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.found += map(float, SIZE.findall(record.getMessage()))


def write(shape: dict[str, int], path: Path) -> Path:
    """Write a Gemma 3 of this shape whose other sizes are small."""
    heads, width = shape["kv_heads"], shape["kv_heads"] * shape["head_dim"]
    writer = gguf.GGUFWriter(path, "gemma3")
    sizes = {
        "context_length": 131072,
        "embedding_length": WIDTH,
        "block_count": shape["layers"],
        "feed_forward_length": WIDTH,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "attention.key_length": shape["head_dim"],
        "attention.value_length": shape["head_dim"],
        "attention.sliding_window": shape["window"],
        "attention.sliding_window_pattern": shape["every"],
    }
    for key, value in sizes.items():
        writer.add_uint32(f"gemma3.{key}", value)
    writer.add_float32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{i}>" for i in range(VOCABULARY - 1)] + ["\n"])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b"])
    tensors: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    layer = {name: (width, WIDTH) for name in ("attn_q", "attn_k", "attn_v")} | {"attn_output": (WIDTH, width)}
    layer |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), (WIDTH, WIDTH))
    norms = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
    alone = dict.fromkeys(norms, (WIDTH,)) | dict.fromkeys(("attn_q_norm", "attn_k_norm"), (shape["head_dim"],))
    for i in range(shape["layers"]):
        tensors |= {f"blk.{i}.{name}": size for name, size in {**layer, **alone}.items()}
    for name, size in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def megabytes(model: Model, cells: int, *, whole: bool) -> float:
    """Return the memory of K and V that a context of this many cells takes, in MB."""
    lib = library()
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = cells
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.kv_unified, parameters.swa_full = True, whole
    sizes, logger = _Sizes(), logging.getLogger("kv_memory.llama_cpp")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(sizes)
    forget_errors()
    context = lib.llama_init_from_model(model.pointer, parameters)
    logger.removeHandler(sizes)
    assert context, "llama.cpp cannot make the context"
    lib.llama_free(context)
    return sum(sizes.found) * 2**20 / 1e6


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768, help="cells of the context")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, shape in SHAPES.items():
        with TemporaryDirectory() as folder:
            model = Model.load(write(shape, Path(folder) / "model.gguf"))
            whole, cut = (megabytes(model, arguments.context, whole=way) for way in (True, False))
            model.close()
        rows.append({"model": name, **shape, "whole_megabytes": whole, "cut_megabytes": cut, "times": whole / cut})
        print(rows[-1])
    save("llama_cpp_windows", {**environment(0), "cells": arguments.context, "dtype": "float16", "rows": rows})


if __name__ == "__main__":
    main()
