"""Erasing by closing the gap, then recomputing the tokens that attended to the spans most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Erasure
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.shift import Shift
from kv_memory.positions import Interval


class ShiftInfluence(Influence):
    """An eraser that shifts as `shift` does, then recomputes the tokens that `influence` chooses, where they are now.

    Ours (no paper). It leaves no hole: every token after the spans gets the position that it would have had without
    them. Near a hole, a model can notice that positions are missing. Cost: that of both.
    """

    name: ClassVar[str] = "shift+influence"
    needs: ClassVar[frozenset[str]] = frozenset({"edit", "influence", "shift"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Remove the spans' cells and close the gaps; holes that earlier erasures left stay."""
        return Shift().erase(engine, seq, spans)
