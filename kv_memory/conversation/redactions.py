"""Redactions: which parts of which messages are retracted, without their text, and how to find these messages again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.ledger import Entry, Ledger, Selection, selection
from kv_memory.conversation.messages import Cuts, Message, ids_differ, parse_messages, recut


class Redaction(BaseModel):
    """Part of one message that is retracted. It holds a digest of the message, not its text."""

    model_config = ConfigDict(frozen=True)

    role: str
    message_id: str | None
    tool_call_id: str | None
    digest: str
    occurrence: int
    """Number of earlier messages with the same role, ids and digest; it tells apart messages without ids."""
    chars: tuple[tuple[int, int], ...]
    calls: frozenset[int]

    @property
    def cuts(self) -> Cuts:
        """Return what is to be left out of the message."""
        return Cuts(self.chars, self.calls)

    def concerns(self, messages: Sequence[tuple[Message, str]]) -> int | None:
        """Return the index of the message that is retracted, or None. Each message comes with the digest to compare.

        That message has the same role and digest, and no id that differs; one with the very same ids goes before one
        with none. Where several match, it is number `occurrence` of them. Where fewer match than that, it is the last:
        leaving out too much is better than bringing retracted text back.
        """
        alike = [
            i
            for i, (message, digest) in enumerate(messages)
            if digest == self.digest
            and message.role == self.role
            and not ids_differ(self.message_id, message.id)
            and not ids_differ(self.tool_call_id, message.tool_call_id)
        ]
        ids = (self.message_id, self.tool_call_id)
        same = [i for i in alike if (messages[i][0].id, messages[i][0].tool_call_id) == ids]
        alike = same or alike
        return alike[min(self.occurrence, len(alike) - 1)] if alike else None


def redactions_of(ledger: Ledger, chosen: Selection) -> tuple[Redaction, ...]:
    """Return the redactions that stand for a selection in this ledger.

    The first is of the message as it was prefilled. Where some of the message had been retracted before, a second is of
    what that left, since the caller's history may hold that instead.
    """
    entry, cuts = chosen.entry, Cuts(chosen.chars(), chosen.cuts.calls)
    as_read = _redaction(ledger, entry, cuts, lambda e: e.digest)
    if not entry.cuts:
        return (as_read,)
    kept = [i for i in range(len(entry.message.tool_calls)) if i not in entry.cuts.calls]
    left = Cuts(
        tuple(recut(interval, entry.cuts.chars) for interval in cuts.chars),
        frozenset(number for number, i in enumerate(kept) if i in cuts.calls),
    )
    return as_read, _redaction(ledger, entry, left, lambda e: e.message.digest(e.cuts))


def _redaction(ledger: Ledger, entry: Entry, cuts: Cuts, digest: Callable[[Entry], str]) -> Redaction:
    def said(e: Entry) -> tuple[str, str | None, str | None, str]:
        return e.message.role, e.message.id, e.message.tool_call_id, digest(e)

    before = ledger.entries[: ledger.entries.index(entry)]
    return Redaction(
        role=entry.message.role,
        message_id=entry.message.id,
        tool_call_id=entry.message.tool_call_id,
        digest=digest(entry),
        occurrence=sum(said(e) == said(entry) for e in before),
        chars=cuts.chars,
        calls=cuts.calls,
    )


def selections(ledger: Ledger, redactions: Sequence[Redaction]) -> list[Selection]:
    """Return what these redactions concern in a ledger."""
    return [chosen for _, chosen in concerned(ledger, redactions)]


def concerned(ledger: Ledger, redactions: Sequence[Redaction]) -> list[tuple[Redaction, Selection]]:
    """Return the redactions that concern a message of a ledger, each with what it selects there."""
    read = [(entry.message, entry.digest) for entry in ledger.entries]
    return [(redaction, selection(ledger.entries[i], redaction.cuts)) for redaction, i in _matches(read, redactions)]


def cuts_for(messages: Sequence[Message], redactions: Sequence[Redaction]) -> dict[int, Cuts]:
    """Return what these redactions leave out of an incoming conversation, by message index."""
    said = [(message, message.digest()) for message in messages]
    result: dict[int, Cuts] = {}
    for redaction, i in _matches(said, redactions):
        result[i] = result.get(i, Cuts()) | redaction.cuts
    return result


def _matches(said: Sequence[tuple[Message, str]], redactions: Sequence[Redaction]) -> list[tuple[Redaction, int]]:
    """Return the redactions that concern one of these messages, each with the number of that message.

    Messages are looked up by digest, so that many redactions of a long conversation cost little more than one.
    """
    wanted = {redaction.digest for redaction in redactions}
    numbers: dict[str, list[int]] = {}
    for number, (_, digest) in enumerate(said):
        if digest in wanted:
            numbers.setdefault(digest, []).append(number)
    found = []
    for redaction in redactions:
        alike = numbers.get(redaction.digest, [])
        place = redaction.concerns([said[number] for number in alike])
        if place is not None:
            found.append((redaction, alike[place]))
    return found


def cuts_of(messages: Sequence[Mapping[str, Any]], redactions: Sequence[Redaction]) -> dict[int, Cuts]:
    """Return what these redactions leave out of a conversation in OpenAI's format, by message index."""
    return cuts_for(parse_messages(messages), redactions)


def tombstones(messages: Sequence[Mapping[str, Any]], redactions: Sequence[Redaction]) -> list[dict[str, Any]]:
    """Return the messages without what was retracted; ids and order stay."""
    cuts = cuts_of(messages, redactions)
    return [_cut(message, cuts.get(i, Cuts())) for i, message in enumerate(messages)]


def _cut(message: Mapping[str, Any], cuts: Cuts) -> dict[str, Any]:
    result = dict(message)
    content = message.get("content")
    if isinstance(content, str):
        result["content"] = cuts.cut(content)
    elif isinstance(content, (list, tuple)):
        parts, at = [], 0
        for given in content:
            part = {"type": "text", "text": given} if isinstance(given, str) else dict(given)
            end = at + len(part["text"])
            parts.append({**part, "text": cuts.within(at, end).cut(part["text"])})
            at = end
        result["content"] = parts
    if cuts.calls:
        result["tool_calls"] = [call for i, call in enumerate(message["tool_calls"]) if i not in cuts.calls]
    return result
