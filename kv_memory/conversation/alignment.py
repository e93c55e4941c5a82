"""How an incoming conversation relates to a cached one: what is known, what vanished, where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kv_memory.conversation.ledger import Entry, Ledger
from kv_memory.conversation.messages import Cuts, Message, ids_differ


@dataclass
class Alignment:
    """The first `known` incoming messages are the cached ones with the numbers `kept`; then the two part or end."""

    kept: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    """Cached messages that the incoming conversation left out, before others that it kept."""
    emptied: list[int] = field(default_factory=list)
    """Cached messages of which it kept only the place: same id, no text or a placeholder's."""
    end: int = 0
    """How many of the cached messages are kept or gone; those after it do not belong to this conversation."""

    @property
    def known(self) -> int:
        """Incoming messages that need no prefill."""
        return len(self.kept)


def align(ledger: Ledger, messages: Sequence[Message]) -> Alignment:
    """Compare by content and identity, from the first message on.

    Ids alone are never authority: a known id with other text is a new message, and the two conversations part there.
    A conversation that does not share the first message shares nothing, whatever else looks alike: it may be another
    agent's, and its cells after another beginning would not be right anyway.
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
    """Whether this cached message is the incoming one: as it was read, or as its retraction left it."""
    if ids_differ(entry.message.tool_call_id, message.tool_call_id) or entry.message.role != message.role:
        return False
    if not entry.cuts:
        return message.digest() == entry.digest  # the text is the same, so its cells are, whatever its id
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
