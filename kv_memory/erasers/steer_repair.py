"""Erasing by steering states, then recomputing what comes right after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Erasure
from kv_memory.erasers.repair import Repair
from kv_memory.erasers.steer import steer_all
from kv_memory.positions import Interval


class SteerRepair(Repair):
    """An eraser that steers as `steer` does, then recomputes the first kept tokens after the spans, over the
    steering states.

    Ours, of the two published methods that it joins (KVEraser, arXiv 2606.17034). Cost: that of both.
    """

    name: ClassVar[str] = "steer+repair"
    needs: ClassVar[frozenset[str]] = frozenset({"adapters", "steering"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Replace the spans' cells by steering states."""
        return steer_all(engine, seq, spans)
