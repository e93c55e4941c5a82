"""Arithmetic of positions: half-open intervals of them, and where a position is after moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kv_memory.engines.base import Interval


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Ascending, disjoint intervals that cover the same numbers."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def moved(position: int, moves: Sequence[tuple[int, int]]) -> int:
    """Where a kept cell that stood at `position` stands after these moves (see Erasure)."""
    delta = 0
    for at, by in moves:
        if at > position:
            break
        delta = by
    return position + delta
