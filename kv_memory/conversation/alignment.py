"""Comparison of an incoming conversation with a cached one: what is cached, what vanished, where they diverge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    emptied: list[int] = field(default_factory=list)
    """Indices of cached messages that came back without text, or with a placeholder's, under the same id."""
    end: int = 0
    """Number of the cached messages that are kept or gone; later ones do not belong to this conversation."""

    @property
    def known(self) -> int:
        """Return the number of incoming messages that need no prefill."""
        return len(self.kept)


def align(ledger: Ledger, messages: Sequence[Message]) -> Alignment:
    """Compare by content and identity, from the first message on.

    An id alone decides nothing: a known id with other text is a new message, and the two conversations diverge there. A
    conversation with another first message shares nothing, whatever else looks alike: it may be another agent's, and
    cells that were computed after another beginning would not be right anyway.
    """
    result, entries = Alignment(), ledger.entries
    while result.known < len(messages) and result.end < len(entries):
        entry, message = entries[result.end], messages[result.known]
        if same(entry, message):
            pass
        elif _emptied(entry, message):
            result.emptied.append(result.end)
        else:
            later = next((i for i, e in enumerate(entries[result.end :]) if same(e, message)), None)
            if later is None or not result.known:
                break
            result.gone += range(result.end, result.end + later)
            result.end += later
        result.kept.append(result.end)
        result.end += 1
    return result


def same(entry: Entry, message: Message) -> bool:
    """Return whether this cached message is the incoming one: as it was prefilled, or as its retraction left it."""
    if ids_differ(entry.message.tool_call_id, message.tool_call_id) or entry.message.role != message.role:
        return False
    if not entry.cuts:
        return message.digest() == entry.digest  # same text, same cells, whatever the id
    if ids_differ(entry.message.id, message.id):
        return False
    return message.digest() in (entry.digest, entry.message.digest(entry.cuts))


def _emptied(entry: Entry, message: Message) -> bool:
    known = (entry.message.id, entry.message.tool_call_id)
    if not any(a is not None and a == b for a, b in zip(known, (message.id, message.tool_call_id), strict=True)):
        return False
    everything = Cuts(entry.everything().chars)
    empty = message.placeholder or message.digest() == entry.message.digest(everything)
    return empty and message.role == entry.message.role
