"""Erasing by dropping the spans, which leaves a hole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit
from kv_memory.erasers.base import Eraser, Erasure, drop_all
from kv_memory.positions import Interval


class Drop(Eraser):
    """An eraser that removes the spans' cells; all other cells stay bit-identical, at their positions.

    A baseline of KVEraser (arXiv 2606.17034), and a strong one on facts that the suffix does not refer back to. Cost:
    no forward pass. Writing the cells back undoes it exactly.
    """

    name: ClassVar[str] = "drop"
    needs: ClassVar[frozenset[str]] = frozenset({"edit"})
    undoable: ClassVar[bool] = True

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        assert isinstance(engine, CellEdit), "checked"
        drop_all(engine, seq, spans)
        return Erasure(recomputed=0)
