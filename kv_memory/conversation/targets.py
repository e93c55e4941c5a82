"""Lookup of targets by span id, tool call id, message id, document id, character range or message.

A part of a conversation has one chain of nouns: a Target (what the caller names), a ResolvedTarget (in which messages),
a Redaction (which characters, remembered), intervals (which cells, now).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kv_memory.conversation.alignment import same
from kv_memory.conversation.ledger import KINDS, Entry, Ledger, Selection, selection
from kv_memory.conversation.messages import Cuts, Message, ids_differ, parse_messages, uncut
from kv_memory.conversation.redactions import Redaction, redactions_of, selections
from kv_memory.conversation.spans import CharRange, Span, SpanKind, Target, range_chars, range_id, target_name
from kv_memory.errors import AmbiguousTargetError, ConversationError, TargetError, UnknownTargetError
from kv_memory.positions import subtract


@dataclass(frozen=True)
class ResolvedTarget:
    """Part of one conversation that a target names."""

    ledger: Ledger
    """Ledger of the conversation."""
    redactions: tuple[Redaction, ...]
    """Redactions that a retraction of the target puts in force."""
    selections: tuple[Selection, ...]
    """Parts of the conversation that the redactions concern."""

    @classmethod
    def of(cls, ledger: Ledger, redactions: tuple[Redaction, ...]) -> ResolvedTarget:
        """Resolve redactions in the conversation that they were made from."""
        return cls(ledger, redactions, tuple(selections(ledger, redactions)))

    @property
    def span_ids(self) -> frozenset[str]:
        """Return the ids of the spans."""
        return frozenset(chosen.span_id for chosen in self.selections)


def resolve(target: Target | Message, ledgers: Sequence[Ledger], given: Ledger | None = None) -> list[ResolvedTarget]:
    """Return what `target` means in each ledger that knows it; the conversation `given` decides where it knows it.

    Documents are meant wherever they are, also beside `given`, and so is a message of whose text `given` holds nothing
    under the id. A message of `given` that a ledger has is resolved there. What several ledgers hold alike is resolved
    in the first. The id of a call does not mean the call where a ledger goes on from there and has the result. Raises
    UnknownTargetError where none knows it, and the errors of `find` in the first that does.
    """
    unknown: UnknownTargetError | None = None
    found: list[ResolvedTarget] = []
    if given is not None:
        try:
            meant = find(given, target, given=True)
        except UnknownTargetError as error:
            meant, unknown = [], error
        found = [_where_read(chosen, given, ledgers) for chosen in meant]
        named = any(".doc" not in span_id for resolved in found for span_id in resolved.span_ids)
        if named and not any(_cleared(chosen.entry.message, target) for chosen in meant):
            return found
    for ledger in ledgers:
        try:
            chosen = find(ledger, target)
        except UnknownTargetError as error:
            unknown = unknown or error
            continue
        except TargetError:
            if not found:
                raise
            continue  # another conversation has something else under this name
        if any(ledger.begins(other) and _is_answered(chosen, target, other) for other in ledgers):
            continue
        redactions = tuple(redaction for part in chosen for redaction in redactions_of(ledger, part))
        known = {redaction for resolved in found for redaction in resolved.redactions}
        if not known.issuperset(redactions):
            found.append(ResolvedTarget.of(ledger, redactions))
    if found:
        return found
    raise unknown or UnknownTargetError(f"Nothing has been read in this session, so nothing is {_name(target)!r}.")


def _cleared(message: Message, target: Target | Message) -> bool:
    """Return whether nothing is left of a message that is named by its id: only ledgers know which text it had."""
    left = message.missing.cut(message.content) and not message.placeholder
    return not left and target in (message.id, message.tool_call_id)


def _is_answered(chosen: Sequence[Selection], target: Target | Message, ledger: Ledger) -> bool:
    """Return whether what a target means is a call, and a conversation has the result, which is meant where it is."""
    calls = [call for part in chosen for call in part.entry.message.tool_calls]
    return any(call.id == target for call in calls) and any(_is_result(entry, target) for entry in ledger.entries)


def _is_result(entry: Entry, name: object) -> bool:
    return entry.message.role == "tool" and entry.message.tool_call_id == name


def learn_ids(ledgers: Sequence[Ledger], given: Ledger) -> None:
    """Set ids that messages got after they were cached, as an answer does when the caller stores it."""
    for ledger in ledgers:
        for said in (said for said in given.entries if said.message.id is not None):
            entry = _counterpart(said, given, ledger)
            if entry is not None and entry.message.id is None:
                entry.message = replace(entry.message, id=said.message.id)


def _where_read(meant: Selection, given: Ledger, ledgers: Sequence[Ledger]) -> ResolvedTarget:
    """Resolve a selection of `given` in the first ledger that has the message, or in `given` where none has it."""
    for ledger in ledgers:
        entry = _counterpart(meant.entry, given, ledger)
        if entry is not None:
            return ResolvedTarget.of(ledger, redactions_of(ledger, selection(entry, meant.cuts)))
    return ResolvedTarget.of(given, redactions_of(given, meant))


def _counterpart(said: Entry, given: Ledger, ledger: Ledger) -> Entry | None:
    """Return the message of a ledger that is this one of `given`; None where the ledger does not have it.

    It is the one with the same id, or else the one after the same messages, or else the only one that is alike.
    """
    alike, name = _alike(ledger, said.message), said.message.id
    named = [entry for entry in alike if name is not None and entry.message.id == name]
    found = named or alike
    placed = next((entry for entry in found if entry.serial == said.serial), None)
    alone = len(found) == 1 and (named or sum(same(entry, said.message) for entry in given.entries) == 1)
    return found[0] if placed is None and alone else placed


def _alike(ledger: Ledger, message: Message) -> list[Entry]:
    return [e for e in ledger.entries if same(e, message) and not ids_differ(e.message.id, message.id)]


def find(ledger: Ledger, target: Target | Message, *, given: bool = False) -> list[Selection]:
    """Find what the target means in this conversation.

    A tool call id means the call's result, or the call itself where it has no result yet. A document id means all
    places where the document is. A range counts the characters of the message as it was first read or, with `given`,
    of the version that the conversation holds. Raises UnknownTargetError, AmbiguousTargetError, or TargetError for
    characters outside the message.
    """
    if isinstance(target, CharRange):
        return [_range(ledger, target, given)]
    if isinstance(target, Mapping):
        target = message_of(target)
    if isinstance(target, Message):
        return [_message(ledger, target)]
    if not isinstance(target, str):
        raise TargetError(
            "A target is the id of a span, tool call, message or document, a CharRange, or a message of the history; "
            f"got {type(target).__name__}. Give several as retract(first, second)."
        )
    named = {selection.span_id: selection for selection in _named(ledger, target)}
    documents = [selection for entry in ledger.entries for selection in _documents(entry, target)]
    if not named and not documents:
        raise UnknownTargetError(f"Nothing in this session has the id {target!r}.")
    if len(named) > 1 or (named and any(d.span_id not in named for d in documents)):
        choices = [f"{s.span_id} (message {ledger.entries.index(s.entry)})" for s in [*named.values(), *documents]]
        raise AmbiguousTargetError(f"The id {target!r} names {', '.join(choices)}; use one of these span ids.")
    return list(named.values()) or documents


def names(ledger: Ledger) -> list[tuple[Span, tuple[str, ...]]]:
    """Return the spans of a conversation, each with the ids by which `find` finds it and nothing else, the caller's
    before its own. A document's id counts also where other places have the same document."""
    spans, results = ledger.spans(), {e.message.tool_call_id for e in ledger.entries if e.message.role == "tool"}
    wanted = [tuple(dict.fromkeys(_ids(span, results))) for span in spans]
    known: dict[str, list[Span]] = {}
    for span, ids in zip(spans, wanted, strict=True):
        for name in ids:
            known.setdefault(name, []).append(span)

    def accepted(name: str) -> bool:
        return len(known[name]) == 1 or all(span.document_id == name != span.id for span in known[name])

    return [(span, tuple(filter(accepted, ids))) for span, ids in zip(spans, wanted, strict=True)]


def _ids(span: Span, results: Collection[str | None]) -> Iterator[str]:
    """Yield the ids of a span. The id of a call is that of its result where there is one."""
    call, whole = span.tool_call_id, span.kind in KINDS.values()
    if call is not None and (
        span.kind is SpanKind.TOOL_RESULT or (span.kind is SpanKind.TOOL_CALL and call not in results)
    ):
        yield call
    if span.message_id is not None and whole:
        yield span.message_id
    if span.document_id is not None:
        yield span.document_id
    yield span.id


def message_of(target: Mapping[str, Any]) -> Message:
    """Return a target that is a message of the history. Raises TargetError where it is no message."""
    try:
        return parse_messages([target])[0]
    except ConversationError as error:
        raise TargetError(f"This target is no message that can be looked up; name its id. {error}") from error


def _named(ledger: Ledger, name: str) -> Iterator[Selection]:
    results = [entry for entry in ledger.entries if _is_result(entry, name)]
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
        chars = range_chars(name)
        if chars and chars[-1][1] <= len(entry.message.content) and name == range_id(entry.span_id, chars):
            yield Selection(entry, name, Cuts(chars))


def _documents(entry: Entry, name: str) -> Iterator[Selection]:
    for i, document in enumerate(entry.message.documents):
        if document.id == name:
            yield Selection(entry, f"{entry.span_id}.doc{i}", Cuts(((document.start, document.end),)))


def _message(ledger: Ledger, message: Message) -> Selection:
    """Return the message with this text; where there are several, the one with the same id, or the same version."""
    found = [e for e in ledger.entries if same(e, message) and not ids_differ(e.message.id, message.id)]
    found = [e for e in found if e.message.missing == message.missing] or found
    found = [e for e in found if message.id is not None and e.message.id == message.id] or found
    if not found:
        raise UnknownTargetError(f"Nothing in this session is {_name(message)!r} with that text.")
    if len(found) > 1:
        spans = ", ".join(entry.span_id for entry in found)
        raise AmbiguousTargetError(f"{_name(message)!r} was said {len(found)} times; name one of the spans {spans}.")
    return Selection(found[0], found[0].span_id, found[0].everything())


def _name(target: Target | Message) -> str:
    if isinstance(target, Message):
        return target.tool_call_id or target.id or f"this {target.role} message"
    return target_name(target)


def _range(ledger: Ledger, target: CharRange, given: bool) -> Selection:
    whole = find(ledger, target.message)
    entry = whole[0].entry
    if len(whole) > 1 or whole[0].span_id != entry.span_id:
        raise TargetError(f"A character range needs the id of a message; {target.message!r} is part of one.")
    missing = entry.message.missing.chars if given else ()
    length = len(entry.message.content) - sum(end - start for start, end in missing)
    if target.end > length:
        raise TargetError(
            f"Message {target.message!r} has {length} characters; the range [{target.start}, {target.end}) is outside."
        )
    return selection(entry, Cuts(tuple(subtract([uncut((target.start, target.end), missing)], missing))))
