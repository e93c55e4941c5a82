"""Redactions: which parts of which messages are retracted, without their text, and how to find these messages again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from kv_memory.conversation.ledger import Entry, Ledger, Selection, selection
from kv_memory.conversation.messages import Cuts, Message, ids_differ


class Fingerprints(BaseModel):
    """Keyed digests of parts of a message as it was first read, by which a version of it is recognised."""

    model_config = ConfigDict(frozen=True)

    length: int = 0
    """Number of characters of the content."""
    calls: int = 0
    """Number of tool calls."""
    texts: tuple[tuple[int, int, str], ...] = ()
    """Digests of the characters [start, end) of the content: (start, end, digest)."""
    call_texts: tuple[tuple[int, str], ...] = ()
    """Digests of tool calls: (number, digest)."""
    call_ids: tuple[str | None, ...] = ()
    """Ids of the tool calls."""
    documents: tuple[tuple[str, int, int], ...] = ()
    """Where documents are in the content: (id, start, end)."""


class Redaction(BaseModel):
    """Part of one message that is retracted, in characters of the message as it was first read.

    It holds keyed digests of the message, not its text.
    """

    model_config = ConfigDict(frozen=True)

    role: str
    message_id: str | None
    tool_call_id: str | None
    digest: str = Field(validation_alias=AliasChoices("digest", "seal"))
    """Keyed digest of the message as it was first read."""
    occurrence: int
    """Number of earlier messages with the same role, ids and digest; of a message without ids, of those with any ids:
    it tells apart messages without ids, and they may get one later."""
    after: str | None = None
    """Keyed digest of the message before it; "" at the beginning of a conversation."""
    chars: tuple[tuple[int, int], ...]
    calls: frozenset[int]
    key: str = ""
    """Id of the key of the digests."""
    fingerprints: Fingerprints = Fingerprints()
    """Parts into which this redaction splits the message."""

    @property
    def cuts(self) -> Cuts:
        """Return what is to be left out of the message."""
        return Cuts(self.chars, self.calls)

    def concerns(self, messages: Sequence[Read]) -> int | None:
        """Return the index of the message that is retracted, or None.

        That message has the same role and digest, and no id that differs; one with the very same ids goes before one
        with none. Where none has the same ones, those after the same message as then go before others; whole ones go
        before versions that lack something. Of these it is number `occurrence`. Where fewer match than that, it is the
        last: leaving out too much is better than bringing retracted text back.
        """
        alike = [
            i
            for i, read in enumerate(messages)
            if read.digest == self.digest
            and read.message.role == self.role
            and not ids_differ(self.message_id, read.message.id)
            and not ids_differ(self.tool_call_id, read.message.tool_call_id)
        ]
        ids = (self.message_id, self.tool_call_id)
        same_ids = [i for i in alike if (messages[i].message.id, messages[i].message.tool_call_id) == ids]
        if same_ids and ids != (None, None):
            alike = same_ids
        else:
            placed = [n for n, i in enumerate(alike) if messages[i].before == self.after]
            if placed:
                return alike[max((n for n in placed if n <= self.occurrence), default=placed[0])]
        alike = [i for i in alike if not messages[i].message.missing] or alike
        return alike[min(self.occurrence, len(alike) - 1)] if alike else None


@dataclass(frozen=True)
class Read:
    """A message of a conversation, with what tells it from others and its place among them."""

    message: Message
    digest: str
    before: str
    """Digest of the message before it; "" for the first."""


def redactions_of(ledger: Ledger, chosen: Selection) -> tuple[Redaction, ...]:
    """Return the redaction that stands for a selection in this ledger."""
    entry = chosen.entry

    def said(e: Entry) -> tuple[str, str, tuple[str | None, str | None]]:
        return e.message.role, e.digest, (e.message.id, e.message.tool_call_id) if entry.named else (None, None)

    before = ledger.entries[: ledger.entries.index(entry)]
    redaction = Redaction(
        role=entry.message.role,
        message_id=entry.message.id,
        tool_call_id=entry.message.tool_call_id,
        digest=entry.digest,
        occurrence=sum(said(e) == said(entry) for e in before),
        after=before[-1].digest if before else "",
        chars=chosen.chars(),
        calls=chosen.cuts.calls,
    )
    return (redaction,)


def selections(ledger: Ledger, redactions: Sequence[Redaction]) -> list[Selection]:
    """Return what these redactions concern in a ledger."""
    return [chosen for _, chosen in concerned(ledger, redactions)]


def concerned(ledger: Ledger, redactions: Sequence[Redaction]) -> list[tuple[Redaction, Selection]]:
    """Return the redactions that concern a message of a ledger, each with what it selects there."""
    said = [(entry.message, entry.digest) for entry in ledger.entries]
    return [(redaction, selection(ledger.entries[i], redaction.cuts)) for redaction, i in _matches(said, redactions)]


def cuts_for(messages: Sequence[Message], redactions: Sequence[Redaction]) -> dict[int, Cuts]:
    """Return what these redactions leave out of an incoming conversation, by message index.

    The cuts count the characters of the messages as they were first read, as these messages do.
    """
    result: dict[int, Cuts] = {}
    for redaction, i in places(messages, redactions):
        result[i] = result.get(i, Cuts()) | redaction.cuts | messages[i].guessed
    return result


def places(messages: Sequence[Message], redactions: Sequence[Redaction]) -> list[tuple[Redaction, int]]:
    """Return the redactions that concern one of these messages, each with the index of that message."""
    return list(_matches([(message, message.digest()) for message in messages], redactions))


def _matches(said: Sequence[tuple[Message, str]], redactions: Sequence[Redaction]) -> Iterator[tuple[Redaction, int]]:
    """Yield the redactions that concern one of these messages, each with the number of that message.

    Messages are looked up by digest, so that many redactions of a long conversation cost little more than one.
    """
    wanted = {redaction.digest for redaction in redactions}
    numbers: dict[str, list[int]] = {}
    reads: dict[int, Read] = {}
    before = chain([""], (digest for _, digest in said))
    for number, ((message, digest), previous) in enumerate(zip(said, before, strict=False)):
        if digest in wanted:
            numbers.setdefault(digest, []).append(number)
            reads[number] = Read(message, digest, previous)
    for redaction in redactions:
        alike = numbers.get(redaction.digest, [])
        place = redaction.concerns([reads[number] for number in alike])
        if place is not None:
            yield redaction, alike[place]


def by_digest(redactions: Sequence[Redaction]) -> Mapping[str, list[Redaction]]:
    """Return redactions by the digest of the message that they are of."""
    found: dict[str, list[Redaction]] = {}
    for redaction in redactions:
        found.setdefault(redaction.digest, []).append(redaction)
    return found
