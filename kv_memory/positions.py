"""Arithmetic of positions: half-open intervals, and where a position is after moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[int, int]
"""A half-open interval [start, end) of token positions."""


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return ascending, disjoint intervals that cover the same positions."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def subtract(intervals: Iterable[Interval], others: Iterable[Interval]) -> list[Interval]:
    """Return ascending, disjoint intervals that cover what `intervals` cover and `others` do not."""
    left: list[Interval] = []
    removed = merge(others)
    for start, end in merge(intervals):
        at = start
        for first, last in removed:
            if last > at and first < end:
                left.append((at, first))
                at = last
        left.append((at, end))
    return [(start, end) for start, end in left if start < end]


def moved(position: int, moves: Sequence[tuple[int, int]]) -> int:
    """Return the position after these moves (see `Erasure`) of a kept cell that was at `position`."""
    delta = 0
    for at, by in moves:
        if at > position:
            break
        delta = by
    return position + delta


def moves_to(old: Sequence[int], new_start: int) -> tuple[tuple[int, int], ...]:
    """Return the moves that take positions `old`, ascending, to contiguous ones from `new_start` on."""
    moves: list[tuple[int, int]] = []
    for new, position in enumerate(old, new_start):
        if new - position != (moves[-1][1] if moves else 0):
            moves.append((position, new - position))
    return tuple(moves)
