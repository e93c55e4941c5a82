"""Erasing by steering states, then recomputing the tokens that attended to the spans most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Erasure
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.steer import steer_all
from kv_memory.positions import Interval


class SteerInfluence(Influence):
    """An eraser that steers as `steer` does, then recomputes the tokens that `influence` chooses, over the steering
    states.

    Ours, of `influence` and KVEraser (arXiv 2606.17034): the steering states are there for the tokens that are not
    recomputed. Cost: that of both.
    """

    name: ClassVar[str] = "steer+influence"
    needs: ClassVar[frozenset[str]] = frozenset({"adapters", "influence", "steering"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Replace the spans' cells by steering states."""
        return steer_all(engine, seq, spans)
