"""The influence of a span on the cells after it, known exactly: how they change in a full recompute without the span.

Any model has this oracle on any text; it needs no labels. The cells are compared at their old positions, with the gap
left open, so that the rotation of the keys is not part of the change.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    changed = _squares(after.keys - before.keys) + _squares(after.values - before.values)
    size = (_squares(before.keys) + _squares(before.values)).sqrt().mean(1, keepdim=True)
    return suffix, changed.sqrt() / size


def top_share(change: Tensor, order: Tensor, count: int) -> float:
    """Return the share of all change [cells] in the first `count` cells of `order` (indices)."""
    return float(change[order[:count]].sum() / change.sum().clamp_min(1e-12))


def _squares(rows: Tensor) -> Tensor:
    """Sum the squares of [layers, heads, cells, head_dim] to [layers, cells]."""
    return rows.float().square().sum((1, 3))
