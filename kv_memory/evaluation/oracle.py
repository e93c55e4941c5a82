"""The influence of a span on the cells after it, known exactly: how they change in a full recompute without the span.

Any model has this oracle on any text; it needs no labels. The cells are compared at their old positions, with the gap
left open, so that the rotation of the keys is not part of the change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit, CellRows, require
from kv_memory.erasers.base import drop_all, kept_after
from kv_memory.positions import Interval


def deviations(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> tuple[list[int], Tensor]:
    """Return the kept positions after the first span's start, and how much their cells change without the spans.

    The change is float32 [layers, cells]: the Euclidean norm of the change of K and V together over heads and
    dimensions, as a share of the layer's mean norm of K and V. The sequence does not change; costs a forward pass of
    those cells.
    """
    suffix = kept_after(engine, seq, spans)
    edit, rows = require(engine, CellEdit, "Measuring deviations"), require(engine, CellRows, "Measuring deviations")
    before = rows.read_cells(seq, suffix)
    fork = engine.fork(seq)
    try:
        drop_all(edit, fork, spans)
        edit.reencode(fork, suffix)
        after = rows.read_cells(fork, suffix)
    finally:
        engine.free(fork)
    pairs = zip((*before.keys, *before.values), (*after.keys, *after.values), strict=True)
    changed = _by_layer([then - now for now, then in pairs])
    size = _by_layer([*before.keys, *before.values]).sqrt().mean(1, keepdim=True)
    return suffix, changed.sqrt() / size.clamp_min(1e-12)


def top_share(change: Tensor, order: Tensor, count: int) -> float:
    """Return the share of all change [cells] in the first `count` cells of `order` (indices)."""
    return float(change[order[:count]].sum() / change.sum().clamp_min(1e-12))


def _by_layer(rows: Sequence[Tensor]) -> Tensor:
    """Sum the squares of K of each layer, then V of each layer, all [heads, cells, width], to [layers, cells]."""
    squares = [layer.float().square().sum((0, 2)).to(rows[0].device) for layer in rows]
    depth = len(squares) // 2
    return torch.stack(squares[:depth]) + torch.stack(squares[depth:])
