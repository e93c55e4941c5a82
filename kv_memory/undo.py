"""Taking an erasure back by the rows that it replaced, kept for a while where it was asked for."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

from kv_memory.branch import Branch
from kv_memory.engines.base import STEERED, Cells
from kv_memory.erasers.base import Eraser
from kv_memory.ledger import Entry, Selection, merge
from kv_memory.policy.reasons import Reason

SECONDS = 600.0
"""How long rows are kept."""


class Kept:
    """An erasure whose rows are kept. Holds erased text, in memory alone. Callers hold the engine's lock."""

    def __init__(self, branch: Branch, concerned: Sequence[Selection]) -> None:
        """Before the erasure: what it will touch."""
        self.branch = branch
        self._entries = {s.entry.serial: _copied(s.entry) for s in concerned}
        self._approximate_from, self._end = branch.ledger.approximate_from, branch.ledger.end
        self._made = time.monotonic()
        self._cells: Cells | None = None

    def finish(self, cells: Cells | None) -> None:
        """After it: the rows that are gone, if the eraser could give them."""
        self._cells = cells
        self._left = {entry.serial: _copied(entry) for entry in self._touched()}
        self._moves, self._erasures = self.branch.moves, self.branch.erasures

    @property
    def usable(self) -> bool:
        """Whether the rows still fit where they were: nothing has moved or taken their place."""
        branch, left = self.branch, self._cells
        if left is None or self.expired or not branch.resident or branch.busy or branch.moves != self._moves:
            return False
        now = self._touched()
        same = [e.runs == self._left[e.serial].runs and e.cuts == self._left[e.serial].cuts for e in now]
        taken = {position for position, token in branch.engine.cells(branch.seq) if token != STEERED}
        return len(now) == len(self._left) and all(same) and not taken & set(left.positions)

    @property
    def expired(self) -> bool:
        """Whether it was kept for long enough."""
        return time.monotonic() - self._made > SECONDS

    def put_back(self) -> None:
        """Have the rows back, bit-identical, and the messages in the ledger. What came later never saw them."""
        assert self._cells is not None, "asked for where it is usable"
        branch, ledger = self.branch, self.branch.ledger
        branch.engine.write_cells(branch.seq, self._cells)
        for entry in self._touched():
            entry.__dict__.update(_copied(self._entries[entry.serial]).__dict__)
        back = zip(self._cells.positions, self._cells.token_ids, strict=True)
        steered = {p for start, end in ledger.steered for p in range(start, end)} - set(self._cells.positions)
        steered |= {position for position, token in back if token == STEERED}
        ledger.steered = merge((position, position + 1) for position in steered)
        if branch.erasures == self._erasures:
            later = [] if ledger.end <= self._end else [self._end]
            marks = [*later, *([] if self._approximate_from is None else [self._approximate_from])]
            ledger.approximate_from = min(marks, default=None)
        ledger.settle()

    def _touched(self) -> list[Entry]:
        return [entry for entry in self.branch.ledger.entries if entry.serial in self._entries]


def erase_undoably(
    branch: Branch, concerned: Sequence[Selection], eraser: Eraser | None, reason: Reason | str
) -> tuple[int, Eraser, Kept]:
    """Erase, and keep what can be put back: as `Branch.erase`."""
    kept = Kept(branch, concerned)
    recomputed, used, cells = branch.erase(concerned, eraser, reason, keep=True)
    kept.finish(cells)
    return recomputed, used, kept


def _copied(entry: Entry) -> Entry:
    other = copy.copy(entry)
    other.runs, other.erased = list(entry.runs), list(entry.erased)
    return other
