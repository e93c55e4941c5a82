"""The rows that an erasure replaced, kept for a while where that was asked for, so that it can be undone."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from kv_memory.conversation.ledger import Entry, Selection
from kv_memory.engines.base import STEERED, Cells
from kv_memory.engines.parts import CellRows, require
from kv_memory.locks import TurnLock
from kv_memory.positions import merge
from kv_memory.sessions.branch import Branch

SECONDS = 600.0
"""How long rows are kept."""


class KeptRows:
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
        """Whether the rows can be put back now: they fit, and no answer is being written."""
        return self.fits and not self.branch.busy

    @property
    def fits(self) -> bool:
        """Whether the rows still fit where they were: nothing has moved or taken their place. Once not, never again."""
        branch, left = self.branch, self._cells
        if left is None or self.remaining <= 0 or not branch.resident or branch.moves != self._moves:
            return False
        now = self._touched()
        same = [e.runs == self._left[e.serial].runs and e.cuts == self._left[e.serial].cuts for e in now]
        taken = {position for position, token in branch.engine.cells(branch.seq) if token != STEERED}
        return len(now) == len(self._left) and all(same) and not taken & set(left.positions)

    @property
    def remaining(self) -> float:
        """Seconds until it has been kept for long enough."""
        return self._made + SECONDS - time.monotonic()

    def put_back(self) -> None:
        """Have the rows back, bit-identical, and the messages in the ledger. What came later never saw them."""
        assert self._cells is not None, "asked for where it is usable"
        branch, ledger = self.branch, self.branch.ledger
        require(branch.engine, CellRows, "undo").write_cells(branch.seq, self._cells)
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


class Shelf:
    """What a session keeps to undo with; gone after `SECONDS`, whether anybody asks for it or not.

    Callers hold the engine's lock.
    """

    def __init__(self, lock: TurnLock, expired: Callable[[], object]) -> None:
        """`expired`, a method, is called with the lock held once rows have been dropped because of their age."""
        self._lock = lock
        self._expired = weakref.WeakMethod(expired)
        self._kept: dict[str, list[KeptRows]] = {}
        self._timer: threading.Timer | None = None

    def put(self, report: str, kept: Sequence[KeptRows]) -> None:
        """Keep these under the id of their report."""
        self._kept[report] = [rows for rows in kept if rows.fits]
        self._tidy()

    def of(self, report: str) -> list[KeptRows]:
        """What is kept under this id."""
        return self._kept.get(report, [])

    def drop(self, report: str) -> None:
        """Keep nothing under this id."""
        self._kept.pop(report, None)
        self._tidy()

    def holds(self, branch: Branch) -> bool:
        """Whether rows of this branch are kept, which healing it would make useless."""
        self._tidy()
        return any(rows.branch is branch for kept in self._kept.values() for rows in kept)

    def clear(self) -> None:
        """Keep nothing."""
        self._kept = {}
        self._tidy()

    def _tidy(self) -> None:
        """Drop what fits no more, and come back when the oldest of the others is old enough."""
        self._kept = {report: left for report, kept in self._kept.items() if (left := [k for k in kept if k.fits])}
        if self._kept and self._timer is None:
            oldest = min(rows.remaining for kept in self._kept.values() for rows in kept)
            self._timer = threading.Timer(oldest, _drop_expired, [weakref.ref(self)])
            self._timer.daemon = True
            self._timer.start()
        elif not self._kept and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop_expired(self) -> None:
        """Called by the timer."""
        with self._lock:
            self._timer = None
            self._tidy()
            expired = self._expired()
            if expired is not None:
                expired()


def _drop_expired(shelf: weakref.ref[Shelf]) -> None:
    """A shelf that nobody needs any more is not kept alive by its timer."""
    kept = shelf()
    if kept is not None:
        kept.drop_expired()


def _copied(entry: Entry) -> Entry:
    other = copy.copy(entry)
    other.runs, other.erased = list(entry.runs), list(entry.erased)
    return other
