"""Erasing by removing the spans' cells and closing the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Eraser, Erasure, drop_all
from kv_memory.erasers.gaps import close_gaps
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
        """See Eraser.erase. Holes that earlier erasures left stay, and so do those that `close_gaps` leaves."""
        self.check(engine)
        assert isinstance(engine, CellEdit), "checked"
        drop_all(engine, seq, spans)
        moves, note = close_gaps(engine, seq, [(end, end - start) for start, end in spans])
        return Erasure(recomputed=0, moves=moves, note=note)
