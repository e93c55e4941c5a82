"""Sequences of an engine: which of them are in the context, and the cells of the others, kept outside of it.

A context has few homes and a fixed number of cells. When either runs out, the sequence that was used least recently is
moved out of the context ("parked") and put back when it is used again, bit-identical: several conversations share a
context that holds one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.base import SequenceId
from kv_memory.engines.cells import CellLayout, CellStore
from kv_memory.engines.llama_cpp.context import BRIDGE, HOMES, CacheFullError, Context


@dataclass(eq=False)
class Sequence:
    """One sequence of cells, in the context or parked outside of it."""

    store: CellStore
    """Positions and tokens of the sequence's cells, and the probe layers' keys and queries."""
    logits: Tensor | None = None
    """[vocabulary] after the last cell; None where they are not computed yet."""
    home: int | None = None
    """The sequence's number in the context; None while it is not there."""
    parked: NDArray[np.uint8] | None = None
    """State of the sequence while it is not in the context; None where it has no cells."""
    used: int = 0
    """Time of the last use, as a count of uses."""


class Sequences:
    """All sequences over one context. Ids are never given twice."""

    def __init__(self, context: Context, layout: CellLayout, limit: int) -> None:
        """Let the context park a sequence where it needs room. `limit`: most cells of one sequence."""
        self._context = context
        self._layout = layout
        self._limit = limit
        self._known: dict[SequenceId, Sequence] = {}
        self._created = self._clock = 0
        self._free_homes = list(range(BRIDGE + 1, HOMES))
        self._busy: set[int] = set()
        """Homes that the call in progress uses."""
        context.make_room = self._park_one

    def get(self, seq: SequenceId) -> Sequence:
        """Return the sequence of this id. Raises ValueError where there is none."""
        if seq not in self._known:
            raise ValueError(f"there is no sequence {seq}")
        return self._known[seq]

    def create(self) -> SequenceId:
        """Create an empty sequence."""
        return self._add(Sequence(CellStore(self._layout, self._limit)))

    def fork(self, seq: SequenceId, end: int) -> SequenceId:
        """Create a sequence that shares the cells at positions below `end`."""
        source = self.get(seq)
        other = Sequence(source.store.copy(end), source.logits if end >= source.store.next_position else None)
        if len(other.store.order()[0]):
            home = self.home(source)
            other.home, other.used = self._take_home(), self._clock
            self._context.copy(home, other.home, 0, end)
        return self._add(other)

    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its cells and its home."""
        gone = self.get(seq)
        del self._known[seq]
        if gone.home is not None:
            self._context.remove(gone.home)
            self._free_homes.append(gone.home)

    def home(self, sequence: Sequence) -> int:
        """Return the sequence's home for the call in progress; a parked sequence is put back into the context."""
        self._clock += 1
        sequence.used = self._clock
        self._busy = set() if sequence.home is None else {sequence.home}
        if sequence.home is None:
            home = self._take_home()
            self._busy = {home}
            if sequence.parked is not None:
                try:
                    self._context.write(home, sequence.parked)
                except BaseException:
                    self._free_homes.append(home)
                    raise
            sequence.home, sequence.parked = home, None
        return sequence.home

    def _add(self, sequence: Sequence) -> SequenceId:
        self._created += 1
        self._known[self._created] = sequence
        return self._created

    def _take_home(self) -> int:
        if not self._free_homes and not self._park_one():
            raise CacheFullError("The context has no room for another sequence; free one.")
        return self._free_homes.pop()

    def _park_one(self) -> bool:
        """Move the sequence that was used least recently out of the context; False where there is no other."""
        inside = [s for s in self._known.values() if s.home is not None and s.home not in self._busy]
        if not inside:
            return False
        oldest = min(inside, key=lambda s: s.used)
        assert oldest.home is not None
        if len(oldest.store.order()[0]):
            oldest.parked = self._context.read(oldest.home)
            self._context.remove(oldest.home)
        self._free_homes.append(oldest.home)
        oldest.home = None
        return True
