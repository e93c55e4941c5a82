"""Which spans a target means: lookup by span id, tool call id, message id, document id or character range."""

from __future__ import annotations

from collections.abc import Iterator

from kv_memory.conversation.alignment import same
from kv_memory.conversation.ledger import Entry, Ledger, Selection, selection
from kv_memory.conversation.messages import Cuts, Message, ids_differ, parse_messages
from kv_memory.conversation.spans import CharRange, Target, target_name
from kv_memory.errors import AmbiguousTargetError, TargetError, UnknownTargetError


def find(ledger: Ledger, target: Target) -> list[Selection]:
    """What the target means in this conversation.

    A tool call id means the call's result, or the call itself where it has no result yet. A document id means all
    places where the document stands. Raises UnknownTargetError, AmbiguousTargetError, or TargetError for characters
    outside the message.
    """
    if isinstance(target, CharRange):
        return [_range(ledger, target)]
    if not isinstance(target, str):
        return [_message(ledger, parse_messages([target])[0], target_name(target))]
    named = {selection.span_id: selection for selection in _named(ledger, target)}
    documents = [selection for entry in ledger.entries for selection in _documents(entry, target)]
    if not named and not documents:
        raise UnknownTargetError(f"Nothing in this session has the id {target!r}.")
    if len(named) > 1 or (named and any(d.span_id not in named for d in documents)):
        choices = [f"{s.span_id} (message {ledger.entries.index(s.entry)})" for s in [*named.values(), *documents]]
        raise AmbiguousTargetError(f"The id {target!r} names {', '.join(choices)}; use one of these span ids.")
    return list(named.values()) or documents


def _named(ledger: Ledger, name: str) -> Iterator[Selection]:
    results = [e for e in ledger.entries if e.message.role == "tool" and e.message.tool_call_id == name]
    for entry in ledger.entries:
        if name in (entry.span_id, entry.message.id) or entry in results:
            yield Selection(entry, entry.span_id, entry.everything())
        for i, call in enumerate(entry.message.tool_calls):
            span_id = f"{entry.span_id}.call{i}"
            if name == span_id or (name == call.id and not results):
                yield Selection(entry, span_id, Cuts(calls=frozenset([i])))
        for i, document in enumerate(entry.message.documents):
            if name == f"{entry.span_id}.doc{i}":
                yield Selection(entry, name, Cuts(((document.start, document.end),)))
        for erased in entry.erased:
            if name == erased.part_of and erased.chars:
                yield Selection(entry, name, Cuts((erased.chars,)))


def _documents(entry: Entry, name: str) -> Iterator[Selection]:
    for i, document in enumerate(entry.message.documents):
        if document.id == name:
            yield Selection(entry, f"{entry.span_id}.doc{i}", Cuts(((document.start, document.end),)))


def _message(ledger: Ledger, message: Message, name: str) -> Selection:
    """The message with this text; of several the one that has its id."""
    found = [e for e in ledger.entries if same(e, message) and not ids_differ(e.message.id, message.id)]
    found = [e for e in found if message.id is not None and e.message.id == message.id] or found
    if not found:
        raise UnknownTargetError(f"Nothing in this session is {name!r} with that text.")
    if len(found) > 1:
        raise AmbiguousTargetError(
            f"{name!r} was said {len(found)} times; name one of the spans {', '.join(e.span_id for e in found)}."
        )
    return Selection(found[0], found[0].span_id, found[0].everything())


def _range(ledger: Ledger, target: CharRange) -> Selection:
    whole = find(ledger, target.message)
    entry = whole[0].entry
    if len(whole) > 1 or whole[0].span_id != entry.span_id:
        raise TargetError(f"A character range needs the id of a message; {target.message!r} is part of one.")
    length = len(entry.message.content)
    if target.end > length:
        raise TargetError(
            f"Message {target.message!r} has {length} characters; the range [{target.start}, {target.end}) is outside."
        )
    return selection(entry, Cuts(((target.start, target.end),)))
