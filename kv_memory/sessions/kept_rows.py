"""The rows that an erasure replaced, kept for a while on request, so that the erasure can be undone."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence

from kv_memory.conversation.ledger import Entry, Selection
from kv_memory.engines.base import STEERED, Cells
from kv_memory.engines.parts import CellRows, require
from kv_memory.locks import TurnLock
from kv_memory.positions import merge
from kv_memory.sessions.branch import Branch

SECONDS = 600.0
"""Seconds that rows are kept."""


class KeptRows:
    """The rows that one erasure replaced. They hold erased text, and are only kept in memory.

    Callers hold the engine's lock.
    """

    def __init__(self, branch: Branch, concerned: Sequence[Selection]) -> None:
        """Note, before the erasure, the messages of the ledger that it will change."""
        self.branch = branch
        self._entries = {s.entry: _copied(s.entry) for s in concerned}
        """Messages of the ledger, each with a copy as it was. One that is prefilled again later is another entry."""
        self._approximate_from = branch.ledger.approximate_from
        self._saw = weakref.WeakSet(branch.ledger.entries)
        """Messages whose cells were computed with the erased ones in view."""
        self._made = time.monotonic()
        self._cells: Cells | None = None

    def finish(self, cells: Cells | None) -> None:
        """Keep, after the erasure, the cells that are gone; None where the eraser could not give them."""
        self._cells = cells
        self._left = {entry: _copied(entry) for entry in self._touched()}
        self._moves, self._erasures = self.branch.moves, self.branch.erasures

    @property
    def usable(self) -> bool:
        """Return whether the rows can be put back now: they fit, and no answer is being generated."""
        return self.fits and not self.branch.busy

    @property
    def fits(self) -> bool:
        """Return whether the rows still fit: nothing has moved or replaced them, and they are not too old.

        Rows that do not fit will never fit again.
        """
        branch, left = self.branch, self._cells
        if left is None or self.remaining <= 0 or not branch.resident or branch.moves != self._moves:
            return False
        now = self._touched()
        same = [e.runs == self._left[e].runs and e.cuts == self._left[e].cuts for e in now]
        taken = {position for position, token in branch.engine.cells(branch.seq) if token != STEERED}
        return len(now) == len(self._left) and all(same) and not taken & set(left.positions)

    @property
    def remaining(self) -> float:
        """Return the seconds until the rows have been kept for long enough."""
        return self._made + SECONDS - time.monotonic()

    def touches(self, serials: Collection[int]) -> bool:
        """Return whether the rows are of one of the messages with these numbers."""
        return any(entry.serial in serials for entry in self._entries)

    def put_back(self) -> None:
        """Put the rows back, bit-identical, and the messages into the ledger.

        Cells that were prefilled after the erasure never saw them and stay as they are.
        """
        assert self._cells is not None, "asked for where it is usable"
        branch, ledger = self.branch, self.branch.ledger
        require(branch.engine, CellRows, "undo").write_cells(branch.seq, self._cells)
        for entry in self._touched():
            entry.__dict__.update(_copied(self._entries[entry]).__dict__)
        back = zip(self._cells.positions, self._cells.token_ids, strict=True)
        steered = {p for start, end in ledger.steered for p in range(start, end)} - set(self._cells.positions)
        steered |= {position for position, token in back if token == STEERED}
        ledger.steered = merge((position, position + 1) for position in steered)
        if branch.erasures == self._erasures:
            end = max((run.end for entry in ledger.entries if entry in self._saw for run in entry.runs), default=0)
            later = [] if ledger.end <= end else [end]
            marks = [*later, *([] if self._approximate_from is None else [self._approximate_from])]
            ledger.approximate_from = min(marks, default=None)
        ledger.settle()

    def _touched(self) -> list[Entry]:
        return [entry for entry in self.branch.ledger.entries if entry in self._entries]


class Shelf:
    """The kept rows of one session. They are dropped after `SECONDS`, by a timer.

    Callers hold the engine's lock.
    """

    def __init__(self, lock: TurnLock, expired: Callable[[], object]) -> None:
        """Create an empty shelf. `expired`, a method, is called with the lock held once rows were dropped for age."""
        self._lock = lock
        self._expired = weakref.WeakMethod(expired)
        self._kept: dict[str, list[KeptRows]] = {}
        self._timer: threading.Timer | None = None

    def put(self, report: str, kept: Sequence[KeptRows]) -> None:
        """Keep these rows under the id of their report."""
        self._kept[report] = [rows for rows in kept if rows.fits]
        self._tidy()

    def of(self, report: str) -> list[KeptRows]:
        """Return the rows that are kept under this id."""
        return self._kept.get(report, [])

    def drop(self, report: str) -> None:
        """Drop the rows that are kept under this id."""
        self._kept.pop(report, None)
        self._tidy()

    def drop_of(self, entries: Collection[Entry]) -> None:
        """Keep no rows of these messages: a stricter retraction wants their text gone."""
        serials = {entry.serial for entry in entries}
        for report, kept in self._kept.items():
            self._kept[report] = [rows for rows in kept if not rows.touches(serials)]
        self._tidy()

    def holds(self, branch: Branch) -> bool:
        """Return whether rows of this branch are kept; healing the branch would make them useless."""
        self._tidy()
        return any(rows.branch is branch for kept in self._kept.values() for rows in kept)

    def clear(self) -> None:
        """Drop all rows."""
        self._kept = {}
        self._tidy()

    def _tidy(self) -> None:
        """Drop the rows that no longer fit, and set the timer for the oldest of the others."""
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
        """Drop the rows that are too old; the timer calls this."""
        with self._lock:
            self._timer = None
            self._tidy()
            expired = self._expired()
            if expired is not None:
                expired()


def _drop_expired(shelf: weakref.ref[Shelf]) -> None:
    """Drop what expired, unless the shelf is gone: the timer does not keep it alive."""
    kept = shelf()
    if kept is not None:
        kept.drop_expired()


def _copied(entry: Entry) -> Entry:
    other = copy.copy(entry)
    other.runs, other.erased = list(entry.runs), list(entry.erased)
    return other
