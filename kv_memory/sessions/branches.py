"""The branches of one session, and how a reading plan is carried out on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from kv_memory.calibration.record import Calibration
from kv_memory.conversation.alignment import Alignment
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.ledger import Ledger, selection
from kv_memory.conversation.span_numbers import SpanNumbers
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.errors import ContextLengthError
from kv_memory.policy.config import Policy
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.plan import ReadingPlan
from kv_memory.sessions.reply import Usage

MAX_BRANCHES = 32
"""Highest number of branches of a session: with more sub-agents at once the main conversation loses its cells."""


class BranchHost(Protocol):
    """The part of a memory that the branches of all sessions share; `Memory` is one."""

    engine: Engine
    format: ChatFormat
    eraser: Eraser | None
    calibration: Calibration | None
    policy: Policy

    def make_room(self, tokens: int, keep: Branch) -> None:
        """Evict the branches used least recently until `tokens` more cells fit; ContextLengthError when they cannot."""


class Branches:
    """The branches of one session. Callers hold the engine's lock."""

    def __init__(self, host: BranchHost) -> None:
        self.numbers = SpanNumbers()
        """Numbers of the messages, from which their span ids are made."""
        self._host = host
        self._branches: list[Branch] = []
        self._added = 0

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._branches)

    @property
    def latest(self) -> Branch | None:
        """Return the branch that was used last."""
        return max(self._branches, key=lambda b: b.used, default=None)

    @property
    def by_use(self) -> list[Branch]:
        """Return the branches, the one that was used last first."""
        return sorted(self._branches, key=lambda b: -b.used)

    def add(self, branch: Branch) -> None:
        """Add a branch; beyond the limit, the one used least recently is removed with its ledger."""
        branch.number, self._added = self._added, self._added + 1
        self._branches.append(branch)
        idle = sorted((b for b in self._branches if not b.busy and b is not branch), key=lambda b: (b.resident, b.used))
        for old in idle[: max(0, len(self._branches) - MAX_BRANCHES)]:
            old.evict()
            self._branches.remove(old)

    def remember(self, branch: Branch) -> Branch:
        """Return a branch without cells, added here, by which targets still name the messages of this one once they are
        cut off: the history may bring them back."""
        remembered = branch.remembered()
        self.add(remembered)
        return remembered

    def open(self, plan: ReadingPlan[Branch], room: int = 0) -> tuple[Branch, int]:
        """Return the branch that a plan, made of these branches, continues: its source, a fork of its beginning, or an
        empty one; and the number of cells after that point, which were erased.

        `room`: number of tokens that have to fit after the conversation. That all fits is checked before anything is
        changed; raises ContextLengthError.
        """
        source, tokens = plan.source, plan.tokens + room
        if source is not None and not plan.in_place and not source.busy and not self._fits(source.cells, source):
            self._cut_off(source, plan.alignment.end)  # there is no room for a copy of its beginning
            return self._checked(source, tokens), 0
        if source is not None and plan.in_place:
            cells = source.cells
            self._cut_off(source, plan.alignment.end)
            return self._checked(source, tokens), cells - source.cells
        if source is not None:
            self._host.make_room(source.cells, source)
        branch = self._empty() if source is None else source.fork(plan.alignment.end)
        try:
            self._checked(branch, tokens)
        except BaseException:
            branch.evict()
            raise
        self.add(branch)
        return branch, 0

    def fill(
        self,
        plan: ReadingPlan[Branch],
        branch: Branch,
        eraser: Eraser | None = None,
        progress: Callable[[int], None] | None = None,
        erased: int = 0,
    ) -> Usage:
        """Have the branch that `open` gave, after it `erased` cells, hold the conversation.

        `eraser` erases what vanished from the history, by default the host's. `progress` is called with the number of
        tokens prefilled.
        """
        branch.tools_digest = plan.tools_digest
        before = branch.ledger.cells_from(0)
        _learn_versions(branch, plan)
        _erase_vanished(branch, plan.alignment, eraser or self._host.eraser)
        reused = branch.ledger.cells_from(0)
        prefilled = branch.append(plan.unread, plan.pieces, plan.unread_cuts, progress)
        branch.touch()
        for old in plan.replaced:
            if not old.busy:
                erased += old.cells
                old.evict()
        return Usage(
            reused=reused,
            prefilled=prefilled,
            erased=erased + before - reused,
            generated=0,
            branch=branch.number,
        )

    def _cut_off(self, branch: Branch, entry: int) -> None:
        """Delete the messages of a branch from this one on; those that a target may name by an id are remembered."""
        if any(said.nameable for said in branch.ledger.entries[entry:]):
            self.remember(branch)
        branch.cut_off(entry)

    def _fits(self, tokens: int, branch: Branch) -> bool:
        """Return whether this many cells more have room beside those of a branch, whoever else is evicted."""
        try:
            self._host.make_room(tokens, branch)
        except ContextLengthError:
            return False
        return True

    def _checked(self, branch: Branch, tokens: int) -> Branch:
        branch.check_room(tokens)
        self._host.make_room(tokens, branch)
        return branch

    def _empty(self) -> Branch:
        return Branch(self._host.engine, self._host.calibration, self._host.policy, ledger=Ledger(self.numbers))


def _learn_versions(branch: Branch, plan: ReadingPlan[Branch]) -> None:
    """Set the ids that cached messages, their calls and their documents have in the history now, and what its versions
    of them lack.

    Both tell which of several equal messages is meant; it is to be the same one in the ledger as in the history.
    """
    for number, message in zip(plan.alignment.kept, plan.messages, strict=False):
        entry = branch.ledger.entries[number]
        entry.message = replace(entry.message.with_ids_of(message), missing=message.missing)


def _erase_vanished(branch: Branch, alignment: Alignment, eraser: Eraser | None) -> None:
    """Erase what the history no longer holds: parts of messages, and whole messages that are gone."""
    entries = list(branch.ledger.entries)
    shortened = [selection(entries[i], cuts) for i, cuts in alignment.shortened.items()]
    shortened = [chosen for chosen in shortened if chosen.intervals()]
    if shortened:
        branch.erase(shortened, eraser)
    if alignment.gone:
        branch.remove([entries[i] for i in alignment.gone], eraser)
