"""Sequences of an engine: which of them is in the context, and the cells of the others, kept outside of it.

While a sequence is used its cells are the only ones in the context, in the order of their positions: the others are
moved out ("parked") and put back when they are used again, bit-identical.

NOTE: where a cell is decides on the order in which attention adds it up, and weights that are quantised make much of
the last bit: llama.cpp rounds what it multiplies them with to eight bits. In a context that is shared, a conversation's
greedy answer would depend on which others are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.base import SequenceId
from kv_memory.engines.cells import CellLayout, CellStore
from kv_memory.engines.llama_cpp.context import GUARD, HOMES, Context
from kv_memory.engines.llama_cpp.rows import ordered


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
    in_order: bool = True
    """Whether the cells are the first of the context, in the order of their positions, once nothing else is there."""


class Sequences:
    """All sequences over one context. Ids are never given twice."""

    def __init__(self, context: Context, layout: CellLayout, limit: int) -> None:
        """Begin without any. `limit`: most cells of one sequence."""
        self._context = context
        self._layout = layout
        self._limit = limit
        self._known: dict[SequenceId, Sequence] = {}
        self._created = 0
        self._free_homes = list(range(GUARD + 1, HOMES))

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
        other.in_order = source.in_order
        if len(other.store.order()[0]):
            home = self.home(source)
            other.home = self._free_homes.pop()
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
        """Return the sequence's home, in a context that holds nothing else.

        A parked sequence is put back, its cells in order.
        """
        for other in self._known.values():
            if other is not sequence and other.home is not None:
                self._park(other)
        if sequence.home is None:
            home = self._free_homes.pop()
            if sequence.parked is not None:
                try:
                    self._context.write(home, ordered(sequence.parked, self._context.layout))
                except BaseException:
                    self._free_homes.append(home)
                    raise
                sequence.in_order = True
            sequence.home, sequence.parked = home, None
        return sequence.home

    def home_in_order(self, sequence: Sequence) -> int:
        """Return the sequence's home, for tokens to be run: with its cells in order."""
        home = self.home(sequence)
        if not sequence.in_order:
            self._park(sequence)
            home = self.home(sequence)
        return home

    def _add(self, sequence: Sequence) -> SequenceId:
        self._created += 1
        self._known[self._created] = sequence
        return self._created

    def _park(self, sequence: Sequence) -> None:
        """Move a sequence out of the context."""
        assert sequence.home is not None
        if len(sequence.store.order()[0]):
            sequence.parked = self._context.read(sequence.home)
            self._context.remove(sequence.home)
        self._free_homes.append(sequence.home)
        sequence.home = None
