"""Comparison of an incoming conversation with a cached one: what is cached, what vanished, where they diverge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from kv_memory.conversation.ledger import Entry, Ledger
from kv_memory.conversation.messages import Cuts, Message, ids_differ


@dataclass
class Alignment:
    """Messages that an incoming and a cached conversation share, up to where the two diverge or one ends.

    The first `known` incoming messages are the cached ones with the indices `kept`.
    """

    kept: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    """Indices of cached messages that the incoming conversation left out, before others that it kept."""
    shortened: dict[int, Cuts] = field(default_factory=dict)
    """Parts that the history no longer holds of cached messages, by their index: all of the text where a message came
    back without it, or with a placeholder's, under the same id."""
    end: int = 0
    """Number of the cached messages that are kept or gone; later ones do not belong to this conversation."""

    @property
    def known(self) -> int:
        """Return the number of incoming messages that need no prefill."""
        return len(self.kept)


def align(ledger: Ledger, messages: Sequence[Message], cuts: Mapping[int, Cuts] | None = None) -> Alignment:
    """Compare by content and identity, from the first message on. `cuts`: what is retracted of the incoming messages.

    An id alone decides nothing: a known id with other text is a new message, and the two conversations diverge there.
    So they do where the cells lack a part of a message that is not retracted: it is prefilled again from there. A
    conversation with another first message shares nothing, whatever else looks alike: it may be another agent's, and
    cells that were computed after another beginning would not be right anyway.
    """
    result, entries, cuts = Alignment(), ledger.entries, cuts or {}
    while result.known < len(messages) and result.end < len(entries):
        entry, message = entries[result.end], messages[result.known]
        left_out = message.missing | cuts.get(result.known, Cuts())
        if _holds(entry, message, left_out):
            shorter = left_out - entry.cuts
        elif _emptied(entry, message):
            shorter = Cuts(entry.everything().chars) - entry.cuts
        else:
            later = next((i for i, e in enumerate(entries[result.end :]) if _holds(e, message, left_out)), None)
            if later is None or not result.known:
                break
            result.gone += range(result.end, result.end + later)
            result.end += later
            continue
        if shorter:
            result.shortened[result.end] = shorter
        result.kept.append(result.end)
        result.end += 1
    return result


def replaces(ledger: Ledger, messages: Sequence[Message], found: Alignment) -> bool:
    """Return whether an incoming conversation evidently is this cached one, less messages that `align` leaves behind.

    It is where both have, after they part, a message with the same id; and where the incoming one begins with later
    messages of the cached one, at least two, that go on to the end of either. Without such a sign it may be another
    agent's, which leaves the cached one as it is.
    """
    entries = ledger.entries
    if found.end == len(entries):
        return False
    if found.known:
        ids = {name for entry in entries[found.end :] for name in _names(entry.message)}
        return any(name in ids for message in messages[found.known :] for name in _names(message))
    for start in range(1, len(entries)):
        pairs = zip(entries[start:], messages, strict=False)
        length = sum(1 for _ in takewhile(lambda pair: same(*pair), pairs))
        if length >= 2 and length in (len(messages), len(entries) - start):
            return True
    return False


def _names(message: Message) -> list[tuple[str, str]]:
    """Return the ids that a message has, each with its role."""
    return [(message.role, name) for name in (message.id, message.tool_call_id) if name is not None]


def same(entry: Entry, message: Message) -> bool:
    """Return whether this cached message is the incoming one, or another version of it."""
    if ids_differ(entry.message.tool_call_id, message.tool_call_id) or entry.message.role != message.role:
        return False
    return message.digest() == entry.digest  # same text, same cells, whatever the id


def _holds(entry: Entry, message: Message, left_out: Cuts) -> bool:
    """Return whether the cells hold all of the message that is not to be left out."""
    return same(entry, message) and not entry.cuts - left_out


def _emptied(entry: Entry, message: Message) -> bool:
    known = (entry.message.id, entry.message.tool_call_id)
    if not any(a is not None and a == b for a, b in zip(known, (message.id, message.tool_call_id), strict=True)):
        return False
    calls = [[(c.name, c.arguments) for c in said.tool_calls] for said in (entry.message, message)]
    empty = message.placeholder or (not message.content and calls[0] == calls[1])
    return empty and message.role == entry.message.role
