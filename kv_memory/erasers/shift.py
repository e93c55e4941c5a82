"""Erasing by removing the spans' cells and closing the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.positions import Interval


class Shift(Eraser):
    """An eraser that removes the spans' cells and re-rotates the keys after them, so that the positions are contiguous
    there.

    "Delete and shift", a baseline of KVEraser (arXiv 2606.17034). Cost: a rotation of the keys after each span, no
    forward pass.
    """

    name: ClassVar[str] = "shift"
    needs: ClassVar[frozenset[str]] = frozenset({"shift"})

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase. Holes that earlier erasures left stay."""
        self.check(engine)
        assert isinstance(engine, CellEdit), "checked"
        # From the last span to the first: a shift changes the positions of all cells after the span.
        for start, end in reversed(spans):
            engine.drop(seq, start, end)
            engine.shift(seq, end, start - end)
        moves: list[tuple[int, int]] = []
        for start, end in spans:
            moves.append((end, (moves[-1][1] if moves else 0) - (end - start)))
        return Erasure(recomputed=0, moves=tuple(moves))
