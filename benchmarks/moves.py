"""How precise keys are after many moves: against one rotation of the first keys, in float64.

    python -m benchmarks.moves [--seed 0]

A tiny random model's cells are moved up and down at random, those from a random one on at a time. "each rounded": as
it would be if a move turned what the one before it rounded, which is what happens where cells are read and written back
in between. "rounded once": as the engines do it. What is left with llama.cpp is the error of the frequencies, which its
engine measures on the model's keys.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.record import environment, save
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.gguf import export_model
from kv_memory.testing.models import CONFIGS, tokenizer
from kv_memory.testing.reference import all_cells, random_moves

CONTEXT, CELLS = 4096, 64
MOVES = (1, 120, 1000)
DTYPES = {"transformers": ("bfloat16", "float16", "float32"), "llama.cpp": ("float16", "float32")}

Movable = TransformersEngine | LlamaCppEngine


def save_model(folder: Path) -> None:
    """Write the model, as a directory and as GGUF in it."""
    torch.manual_seed(0)
    config = CONFIGS["qwen3"]()
    config.max_position_embeddings = CONTEXT
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    export_model(folder, folder / "model.gguf", "f32")


def engine_of(kind: str, folder: Path, dtype: str) -> Movable:
    """Open the model in an engine that keeps K and V in this dtype."""
    if kind == "llama.cpp":
        return LlamaCppEngine.load(folder / "model.gguf", dtype=dtype)
    return TransformersEngine.load(folder, "cpu", dtype)


def exact(keys: Tensor, deltas: Tensor) -> Tensor:
    """Rotate keys [..., cells, head_dim] by `deltas` [cells] in float64."""
    half = keys.shape[-1] // 2
    # As the model computes them, in float32, which the exact angles start from.
    frequencies = 1.0 / (10_000.0 ** (torch.arange(0, 2 * half, 2).float() / (2 * half)))
    pairs = torch.complex(keys[..., :half].double(), keys[..., half:].double())
    angles = deltas.double()[:, None] * frequencies.double()
    pairs *= torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], -1)


def errors(engine: Movable, seed: int, *, each_rounded: bool) -> dict[int, float]:
    """Return the relative error of the keys (Frobenius norm) after each number of moves."""
    random = Random(seed)
    seq = engine.create()
    engine.prefill(seq, [random.randrange(400) for _ in range(CELLS)])
    first = all_cells(engine, seq)
    found, done = {}, 0
    for count in MOVES:
        for _ in range(count - done):
            random_moves(engine, seq, random, 1)
            if each_rounded:
                engine.write_cells(seq, all_cells(engine, seq))
        done = count
        now = all_cells(engine, seq)
        expected = exact(torch.stack(first.keys), torch.tensor(now.positions) - torch.tensor(first.positions))
        found[count] = float((torch.stack(now.keys).double() - expected).norm() / expected.norm())
    engine.free(seq)
    return found


def rounding(dtype: str) -> float:
    """Return the relative error of numbers that are rounded to this dtype once, at random."""
    numbers = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float((numbers.to(getattr(torch, dtype)).double() - numbers).norm() / numbers.norm())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        save_model(Path(folder))
        for kind, dtypes in DTYPES.items():
            for dtype in dtypes:
                engine = engine_of(kind, Path(folder), dtype)
                for name, each in (("each rounded", True), ("rounded once", False)):
                    found = errors(engine, options.seed, each_rounded=each)
                    rows.append({"engine": kind, "dtype": dtype, "moves": name, "errors": found})
                    print(rows[-1], flush=True)
    result = {
        "cells": CELLS,
        "context": CONTEXT,
        "one rounding": {name: rounding(name) for name in DTYPES["transformers"]},
    }
    save("moves", {**environment(options.seed), **result, "rows": rows})


if __name__ == "__main__":
    main()
