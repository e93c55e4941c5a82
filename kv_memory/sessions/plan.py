"""The plan for reading a conversation: which branch is continued, what is erased there, what is prefilled.

A plan is made from the ledgers of the branches. Making one changes nothing and calls no engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from kv_memory.arguments import tools_as_json
from kv_memory.conversation.alignment import Alignment, align, replaces
from kv_memory.conversation.chat_format import ChatFormat, Layout, Piece
from kv_memory.conversation.ledger import Entry, Ledger
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.redactions import Redaction, cuts_for
from kv_memory.positions import merge

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
    """Whether the source itself is continued, cut off where the conversation parts from it; otherwise a copy of its
    beginning is."""
    replaced: tuple[Source, ...]
    """Branches that hold the conversation as it was before messages vanished from it."""
    messages: tuple[Message, ...]
    """Messages of the whole conversation."""
    pieces: tuple[tuple[int, Piece], ...]
    """Pieces to prefill, in the order of the text, each with the index of its message among those to prefill."""
    cuts: Mapping[int, Cuts]
    """Parts of the conversation that are left out, by message index: those that are retracted, and those that the
    versions which the history holds lack."""
    retracted: Mapping[int, Cuts]
    """Parts of the conversation that are retracted, by message index."""
    tools_digest: str

    @property
    def unread(self) -> tuple[Message, ...]:
        """Return the messages to prefill."""
        return self.messages[self.alignment.known :]

    @property
    def tokens(self) -> int:
        """Return the number of tokens to prefill."""
        return sum(len(piece.ids) for _, piece in self.pieces)

    @property
    def unread_cuts(self) -> list[Cuts]:
        """Return what is left out of each message to prefill."""
        return [self.cuts.get(i, Cuts()) for i in range(self.alignment.known, len(self.messages))]

    def left_out(self, ledger: Ledger, form: ChatFormat) -> int:
        """Return about how many tokens of the conversation the ledger, which holds it, does not have."""
        gone = {i: ledger.entries[i].cuts - (ledger.entries[i].cuts - cuts) for i, cuts in self.retracted.items()}
        return sum(form.tokens_in(self.messages[i], cuts - self.messages[i].missing) for i, cuts in gone.items())


def plan_reading(
    branches: Iterable[Source],
    messages: Sequence[Message],
    tools: Tools,
    redactions: Sequence[Redaction],
    form: ChatFormat,
    *,
    head: str = "",
    beside: bool = False,
) -> ReadingPlan[Source]:
    """Plan how a branch comes to hold exactly these messages, less what the redactions leave out of them.

    `head`: what the template is to write after it to make the assistant speak; see `ChatFormat.layout`. `beside`:
    nothing has vanished, the conversation is only looked at; what goes on after it is kept. Raises ConversationError
    where the template cannot express the conversation.
    """
    branches = list(branches)
    digest = hashlib.sha256(tools_as_json(tools).encode()).hexdigest()
    candidates = [branch for branch in branches if branch.tools_digest == digest and branch.resident]
    retracted = cuts_for(messages, redactions)
    cuts = dict(retracted)
    cuts |= {i: message.missing | cuts.get(i, Cuts()) for i, message in enumerate(messages) if message.missing}
    layout = form.layout(messages, tools, head=head)
    source, alignment, rewritten = _longest_match(candidates, messages, cuts, layout)
    old = (
        [] if beside else [b for b in branches if b.resident and not b.busy and _vanished(b, branches, messages, cuts)]
    )
    in_place = source is not None and (_ends_there(source, alignment) or source in old)
    if source is not None and rewritten and not source.busy and not beside:
        in_place = True  # it is the same conversation, which the template writes in another way from here on
    return ReadingPlan(
        source=source,
        alignment=alignment,
        in_place=in_place,
        replaced=tuple(branch for branch in old if not (in_place and branch is source)),
        messages=tuple(messages),
        pieces=tuple((owner - alignment.known, piece) for owner, piece in layout.flow(alignment.known, cuts)),
        cuts=cuts,
        retracted=retracted,
        tools_digest=digest,
    )


def _longest_match(
    branches: Sequence[Source], messages: Sequence[Message], cuts: Mapping[int, Cuts], layout: Layout
) -> tuple[Source | None, Alignment, bool]:
    """Find the branch that has most of these messages; among equals one that can be continued without a copy.

    Also returns whether it has more of them, which the template writes in another way now.
    """
    best: tuple[Source | None, Alignment, bool] = (None, Alignment(), False)
    rank = (0, False, 0.0)
    for branch in branches:
        alignment = align(branch.ledger, messages, cuts)
        written = _as_written(branch.ledger, alignment, layout, messages)
        rewritten = written < alignment.known
        if rewritten:
            alignment = align(branch.ledger, messages[:written], cuts)
        this = (alignment.known, _ends_there(branch, alignment), branch.used)
        if alignment.known and this > rank:
            best, rank = (branch, alignment, rewritten), this
    return best


def _as_written(ledger: Ledger, alignment: Alignment, layout: Layout, messages: Sequence[Message]) -> int:
    """Return how many of the known messages the cells hold as the template writes them now.

    It may write earlier messages in another way once others follow: it wraps tool results together, drops old thoughts,
    repeats the list of tools, or moves a message to another place.
    """
    written = 0
    for number in alignment.kept:
        entry = ledger.entries[number]
        if entry.generated and entry.written is not None:
            same = entry.written == layout.text(written)
        else:  # what a model wrote around its contents is its own
            around = entry.generated or (
                entry.scaffold == layout.scaffold(written) and entry.calls == layout.calls(written, entry.cuts)
            )
            same = around and _holds(entry, layout, written, messages[written])
        if not same:
            break
        written += 1
    written = layout.closed(written)
    while written and not ledger.closed(alignment.kept[written - 1] + 1):
        written -= 1
    return written


def _holds(entry: Entry, layout: Layout, index: int, message: Message) -> bool:
    """Return whether the cells hold those characters of a content, and those thoughts, that the template writes now."""
    if len(message.content) != len(entry.message.content):  # emptied in the history: it will be erased
        return True
    thinks = layout.thinks(index) and not message.wholly_in(entry.cuts)
    return merge([*layout.covered(index), *entry.cuts.chars]) == entry.covered and thinks == entry.thinks


def _ends_there(branch: Known, alignment: Alignment) -> bool:
    """Return whether the branch ends where the conversation goes on, and no answer is being generated there."""
    return alignment.end == len(branch.ledger) and not branch.busy


def _vanished(
    branch: Source, branches: Sequence[Source], messages: Sequence[Message], cuts: Mapping[int, Cuts]
) -> bool:
    """Return whether messages at the end of this branch have vanished from its conversation, which this is now.

    The conversation that was used last may also have lost only its end, with nothing new after it.
    """
    alignment = align(branch.ledger, messages, cuts)
    latest = branch is max(branches, key=lambda b: b.used)
    shortened = latest and alignment.known == len(messages) and alignment.end < len(branch.ledger)
    return shortened or replaces(branch.ledger, messages, alignment)
