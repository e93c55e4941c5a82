"""Erasing by dropping the spans, then recomputing what comes right after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Erasure, PartialRecompute, first_after, kept_after
from kv_memory.erasers.shift import Shift
from kv_memory.positions import Interval


class Repair(PartialRecompute):
    """An eraser that drops the spans, then recomputes the first kept tokens after them, in place.

    "Local suffix repair", a baseline of KVEraser (arXiv 2606.17034). Of several spans each gets the same part of the
    budget. Cost: a forward pass of the budget's tokens.
    """

    name: ClassVar[str] = "repair"

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], count: int) -> list[int]:
        """See PartialRecompute.choose."""
        return first_after(kept_after(engine, seq, spans), spans, count)


class ShiftRepair(Repair):
    """An eraser that shifts as `shift` does, then recomputes the first kept tokens after the spans, where they are now.

    The simple rival of `shift+influence`. Cost: that of both.
    """

    name: ClassVar[str] = "shift+repair"
    needs: ClassVar[frozenset[str]] = frozenset({"edit", "shift"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Remove the spans' cells and close the gaps; holes that earlier erasures left stay."""
        return Shift().erase(engine, seq, spans)
