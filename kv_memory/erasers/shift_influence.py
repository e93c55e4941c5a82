"""Erasing by closing the gap, and reading again the tokens that attended to it most."""

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
    """`shift`, then re-encode the `k` tokens that `influence` chooses, at their new positions.

    Ours (no paper). Without a hole every token stands where it would had the spans never been read, which a model can
    notice near the hole. Cost: that of both.
    """

    name: ClassVar[str] = "shift+influence"
    needs: ClassVar[frozenset[str]] = frozenset({"edit", "influence", "shift"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Close the gaps; holes that earlier erasures left stay."""
        return Shift().erase(engine, seq, spans)
