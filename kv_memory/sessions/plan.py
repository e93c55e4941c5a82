"""The plan for reading a conversation: which branch is continued, what is erased there, what is prefilled.

A plan is made from the ledgers of the branches. Making one changes nothing and calls no engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from kv_memory.conversation.alignment import Alignment, align
from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.redactions import Redaction, cuts_for

Tools = list[dict[str, Any]] | None


class Known(Protocol):
    """The part of a branch that a plan is made from."""

    ledger: Ledger
    tools_digest: str
    busy: bool
    used: float

    @property
    def resident(self) -> bool:
        """Return whether the cells are in the cache."""
        ...


Source = TypeVar("Source", bound=Known)


@dataclass(frozen=True)
class ReadingPlan(Generic[Source]):
    """The steps by which one branch comes to hold a conversation."""

    source: Source | None
    """Branch that has most of the conversation; None where none has its beginning."""
    alignment: Alignment
    """Messages of the source that are kept, and those that have vanished or become empty."""
    in_place: bool
    """Whether the source itself is continued; otherwise a copy of its beginning is."""
    messages: tuple[Message, ...]
    """Messages of the whole conversation."""
    pieces: tuple[tuple[Piece, ...], ...]
    """Pieces of each message to prefill."""
    cuts: Mapping[int, Cuts]
    """Parts of the conversation that are left out, by message index: those that are retracted, and those that the
    versions which the history holds lack."""
    tools_digest: str

    @property
    def unread(self) -> tuple[Message, ...]:
        """Return the messages to prefill."""
        return self.messages[self.alignment.known :]

    @property
    def tokens(self) -> int:
        """Return the number of tokens to prefill."""
        return sum(len(piece.ids) for message in self.pieces for piece in message)

    @property
    def unread_cuts(self) -> list[Cuts]:
        """Return what is left out of each message to prefill."""
        return [self.cuts.get(i, Cuts()) for i in range(self.alignment.known, len(self.messages))]

    def left_out(self, ledger: Ledger, form: ChatFormat) -> int:
        """Return about how many tokens of the conversation the ledger, which holds it, does not have."""
        held = zip(self.messages, ledger.entries, strict=True)
        return sum(form.tokens_in(message, entry.cuts - message.missing) for message, entry in held if entry.cuts)


def plan_reading(
    branches: Iterable[Source],
    messages: Sequence[Message],
    tools: Tools,
    redactions: Sequence[Redaction],
    form: ChatFormat,
) -> ReadingPlan[Source]:
    """Plan how a branch comes to hold exactly these messages, less what the redactions leave out of them.

    Raises ConversationError where the template cannot express the conversation.
    """
    digest = hashlib.sha256(json.dumps(tools, sort_keys=True, default=str).encode()).hexdigest()
    candidates = [branch for branch in branches if branch.tools_digest == digest and branch.resident]
    cuts = cuts_for(messages, redactions)
    cuts |= {i: message.missing | cuts.get(i, Cuts()) for i, message in enumerate(messages) if message.missing}
    source, alignment = _longest_match(candidates, messages, cuts)
    pieces = form.encode(messages, tools, start=max(alignment.known - 1, 0), cuts=cuts)
    while source and not _closes_alike(source.ledger, alignment, pieces.pop(0)):
        # the template closes the last known message differently now: prefill that message again
        source, alignment = _longest_match(candidates, messages[: alignment.known - 1], cuts)
        pieces = form.encode(messages, tools, start=max(alignment.known - 1, 0), cuts=cuts)
    return ReadingPlan(
        source=source,
        alignment=alignment,
        in_place=source is not None and _ends_there(source, alignment),
        messages=tuple(messages),
        pieces=tuple(tuple(parts) for parts in pieces),
        cuts=cuts,
        tools_digest=digest,
    )


def _longest_match(
    branches: Sequence[Source], messages: Sequence[Message], cuts: Mapping[int, Cuts]
) -> tuple[Source | None, Alignment]:
    """Find the branch that has most of these messages; among equals one that can be continued without a copy."""
    best: tuple[Source | None, Alignment] = (None, Alignment())
    rank = (0, False, 0.0)
    for branch in branches:
        alignment = align(branch.ledger, messages, cuts)
        this = (alignment.known, _ends_there(branch, alignment), branch.used)
        if alignment.known and this > rank:
            best, rank = (branch, alignment), this
    return best


def _ends_there(branch: Known, alignment: Alignment) -> bool:
    """Return whether the branch ends where the conversation goes on, and no answer is being generated there."""
    return alignment.end == len(branch.ledger) and not branch.busy


def _closes_alike(ledger: Ledger, alignment: Alignment, pieces: Sequence[Piece]) -> bool:
    """Return whether the template still closes the last known message as it was cached.

    It may not: a template that wraps tool results together writes another ending once a second one follows.
    """
    entry = ledger.entries[alignment.kept[-1]]
    return entry.generated or not pieces or pieces[-1].kind != "scaffold" or pieces[-1].ids == entry.tail
