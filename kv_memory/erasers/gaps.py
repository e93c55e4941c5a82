"""Closing the gaps that removed cells leave: the cells after them move down."""

from __future__ import annotations

from collections.abc import Sequence

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import CellEdit


def close_gaps(
    engine: CellEdit, seq: SequenceId, gaps: Sequence[tuple[int, int]]
) -> tuple[tuple[tuple[int, int], ...], str]:
    """Close gaps, each (position after it, number of positions), ascending; return the moves (`Erasure.moves`), and why
    a gap was left, if one was.

    A gap stays where closing it would move a cell into another chunk of a model whose layers divide positions into
    chunks (Llama 4): the cell would be among others than those that it was computed with.
    """
    closed: list[tuple[int, int]] = []
    # From the last gap to the first: a shift changes the positions of all cells after the gap.
    for end, size in reversed(gaps):
        if size and not _parts(engine, seq, end, -size):
            engine.shift(seq, end, -size)
            closed.append((end, size))
    moves: list[tuple[int, int]] = []
    for end, size in reversed(closed):
        moves.append((end, (moves[-1][1] if moves else 0) - size))
    if len(closed) == sum(size > 0 for _, size in gaps):
        return tuple(moves), ""
    return tuple(moves), (
        f"A gap stays where the text was: in some layers of this model positions are divided into chunks of "
        f"{engine.chunk:,}, and closing it would move text from one into another."
    )


def _parts(engine: CellEdit, seq: SequenceId, start: int, delta: int) -> bool:
    """Return whether a cell from `start` on gets into another chunk when they move by `delta`."""
    size = engine.chunk
    if size is None:
        return False
    return any(at // size != (at + delta) // size for at in engine.positions(seq) if at >= start)
