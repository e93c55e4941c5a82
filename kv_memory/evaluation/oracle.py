"""What a span did to the cells after it, known exactly: their own change after a full recompute without it.

Any model has this oracle on any text; it needs no labels. Comparing in place, with the hole left open, keeps the
rotation of the keys out of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit, CellRows, require
from kv_memory.erasers.base import drop_all, kept_after
from kv_memory.positions import Interval


def deviations(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> tuple[list[int], Tensor]:
    """The kept positions after the first span's start, and how far their cells change when the spans go.

    float32 [layers, cells]: the Euclidean norm of the change of K and V together over heads and dimensions, as a share
    of the layer's mean norm of K and V. Changes nothing; costs a forward pass of those cells.
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
    changed = _squares(after.keys - before.keys) + _squares(after.values - before.values)
    size = (_squares(before.keys) + _squares(before.values)).sqrt().mean(1, keepdim=True)
    return suffix, changed.sqrt() / size


def top_share(change: Tensor, order: Tensor, count: int) -> float:
    """The share of all change [cells] that the `count` cells that come first in `order` (indices) carry."""
    return float(change[order[:count]].sum() / change.sum().clamp_min(1e-12))


def _squares(rows: Tensor) -> Tensor:
    """[layers, heads, cells, head_dim] to [layers, cells]."""
    return rows.float().square().sum((1, 3))
