"""The branches of one session: which of them an incoming conversation continues, and how it is made to hold it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from kv_memory.calibration.record import Calibration
from kv_memory.conversation.alignment import Alignment, align
from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.ledger import Ledger, selection
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.redactions import Redaction, cuts_for
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.policy.config import Policy
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.reply import Usage

Tools = list[dict[str, Any]] | None
MAX_BRANCHES = 32
"""Of a session: with more sub-agents at once the main conversation loses its cells. Memory is bounded elsewhere."""


class Host(Protocol):
    """What branches share with those of other sessions; `Memory` is one."""

    engine: Engine
    format: ChatFormat
    eraser: Eraser | None
    calibration: Calibration | None
    policy: Policy

    def make_room(self, tokens: int, keep: Branch) -> None:
        """Evict what was least recently used until so many cells fit; ContextLengthError when they cannot."""


class Branches:
    """Callers hold the engine's lock."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._branches: list[Branch] = []
        self._added = 0
        self._serials = itertools.count()

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._branches)

    @property
    def latest(self) -> Branch | None:
        """The branch that was used last."""
        return max(self._branches, key=lambda b: b.used, default=None)

    def add(self, branch: Branch) -> None:
        """Take a branch in; past the limit the one that was least recently used goes, ledger and all."""
        branch.number, self._added = self._added, self._added + 1
        self._branches.append(branch)
        idle = sorted((b for b in self._branches if not b.busy and b is not branch), key=lambda b: (b.resident, b.used))
        for old in idle[: max(0, len(self._branches) - MAX_BRANCHES)]:
            old.evict()
            self._branches.remove(old)

    def hold(
        self,
        messages: Sequence[Message],
        tools: Tools,
        redactions: Sequence[Redaction],
        head: Piece | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        history_eraser: Eraser | None = None,
    ) -> tuple[Branch, Usage]:
        """A branch that holds exactly these messages, less what the redactions leave out.

        `history_eraser` erases what vanished from them; by default the host's.
        That all fits, with `head` after it, is checked before anything is changed.
        """
        tools_digest = hashlib.sha256(json.dumps(tools, sort_keys=True, default=str).encode()).hexdigest()
        cuts = cuts_for(messages, redactions)
        known_branch, alignment = self._choose(messages, tools_digest)
        pieces = self._host.format.encode(messages, tools, start=max(alignment.known - 1, 0), cuts=cuts)
        if known_branch and not _closes_alike(known_branch, alignment, pieces.pop(0)):
            known_branch, alignment = self._choose(messages[: alignment.known - 1], tools_digest)
            pieces = self._host.format.encode(messages, tools, start=alignment.known, cuts=cuts)
        new = sum(len(piece.ids) for message in pieces for piece in message)
        branch = self._continue(known_branch, alignment, new + (len(head.ids) + 1 if head else 0))
        branch.tools_digest = tools_digest
        before = branch.ledger.cells_from(0)
        self._follow(branch, alignment, messages, history_eraser or self._host.eraser)
        reused = branch.ledger.cells_from(0)
        first = alignment.known
        left_out = [cuts.get(i, Cuts()) for i in range(first, len(messages))]
        prefilled = branch.append(messages[first:], pieces, left_out, progress)
        branch.touch()
        return branch, Usage(
            reused=reused,
            prefilled=prefilled,
            erased=before - reused,
            generated=0,
            left_out=sum(self._host.format.tokens_in(messages[i], cut) for i, cut in cuts.items()),
            branch=branch.number,
        )

    def _choose(self, messages: Sequence[Message], tools_digest: str) -> tuple[Branch | None, Alignment]:
        """The branch that knows most of these messages; of equals the one that can be continued without a copy."""
        best: tuple[Branch | None, Alignment] = (None, Alignment())
        rank = (0, False, 0.0)
        for branch in self._branches:
            if branch.tools_digest != tools_digest or not branch.resident:
                continue
            alignment = align(branch.ledger, messages)
            this = (alignment.known, alignment.end == len(branch.ledger) and not branch.busy, branch.used)
            if alignment.known and this > rank:
                best, rank = (branch, alignment), this
        return best

    def _continue(self, branch: Branch | None, alignment: Alignment, new: int) -> Branch:
        """The branch to append to: this one, a fork of its beginning, or an empty one; with room for `new` tokens."""
        if branch is not None and alignment.end == len(branch.ledger) and not branch.busy:
            branch.check_room(new)
            self._host.make_room(new, branch)
            return branch
        if branch is not None:
            self._host.make_room(branch.cells, branch)
        target = branch.fork(alignment.end) if branch else self._empty()
        try:
            target.check_room(new)
            self._host.make_room(new, target)
        except BaseException:
            target.evict()
            raise
        self.add(target)
        return target

    def _empty(self) -> Branch:
        return Branch(self._host.engine, self._host.calibration, self._host.policy, ledger=Ledger(self._serials))

    def _follow(self, branch: Branch, alignment: Alignment, messages: Sequence[Message], eraser: Eraser | None) -> None:
        """Bring the cached messages to where the caller's history has them: ids learned, vanished text erased."""
        entries = list(branch.ledger.entries)
        for number, message in zip(alignment.kept, messages, strict=False):
            entry = entries[number]
            if message.id is not None and not entry.cuts:
                entry.message = replace(entry.message, id=message.id)
        emptied = [selection(entries[i], entries[i].everything()) for i in alignment.emptied]
        emptied = [chosen for chosen in emptied if chosen.intervals()]
        if emptied:
            branch.erase(emptied, eraser)
        if alignment.gone:
            branch.remove([entries[i] for i in alignment.gone], eraser)


def _closes_alike(branch: Branch, alignment: Alignment, pieces: Sequence[Piece]) -> bool:
    """Whether the template still closes the last known message as it was cached.

    It may not: a template that wraps tool results together writes another ending once a second one follows.
    """
    entry = branch.ledger.entries[alignment.kept[-1]]
    return entry.generated or not pieces or pieces[-1].kind != "scaffold" or pieces[-1].ids == entry.tail
