"""What targets mean in a session: in its branches, and in a conversation that it may not have read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kv_memory.conversation.alignment import same
from kv_memory.conversation.ledger import Entry, Ledger, Selection, selection
from kv_memory.conversation.messages import Cuts, Message, ids_differ, uncut
from kv_memory.conversation.redactions import Redaction, redactions_of
from kv_memory.conversation.spans import Target, target_name
from kv_memory.conversation.targets import find
from kv_memory.errors import UnknownTargetError


@dataclass(frozen=True)
class ResolvedTarget:
    """Parts of one conversation that a target names."""

    ledger: Ledger
    redactions: tuple[Redaction, ...]


def resolve(target: Target, ledgers: Sequence[Ledger], given: Ledger | None = None) -> list[ResolvedTarget]:
    """What `target` means in the first ledger that knows it, or in the conversation `given`, which is the authority.

    What of `given` a ledger has read is meant there, in the characters of the text as it was read. Raises
    UnknownTargetError, and what `find` raises.
    """
    unknown: UnknownTargetError | None = None
    if given is not None:
        try:
            return [_where_read(chosen, given, ledgers) for chosen in find(given, target)]
        except UnknownTargetError as error:
            unknown = error
    for ledger in ledgers:
        try:
            return [ResolvedTarget(ledger, tuple(e for s in find(ledger, target) for e in redactions_of(ledger, s)))]
        except UnknownTargetError as error:
            unknown = unknown or error
    raise unknown or UnknownTargetError(
        f"Nothing has been read in this session, so nothing is {target_name(target)!r}."
    )


def learn_ids(ledgers: Sequence[Ledger], given: Ledger) -> None:
    """Enter the ids that messages got after they were read, as an answer does from a caller that stores it."""
    for ledger in ledgers:
        for said in given.entries:
            entry = next((e for e in _alike(ledger, said.message) if e.message.id is None and not e.cuts), None)
            if entry is not None and said.message.id is not None:
                entry.message = replace(entry.message, id=said.message.id)


def _where_read(meant: Selection, given: Ledger, ledgers: Sequence[Ledger]) -> ResolvedTarget:
    """In the first ledger that read this message; in the conversation `given` itself where none did."""
    number = _alike(given, meant.entry.message).index(meant.entry)
    for ledger in ledgers:
        read = _alike(ledger, meant.entry.message)
        if read:
            return ResolvedTarget(ledger, redactions_of(ledger, _as_read(meant, read[min(number, len(read) - 1)])))
    return ResolvedTarget(given, redactions_of(given, meant))


def _alike(ledger: Ledger, message: Message) -> list[Entry]:
    return [e for e in ledger.entries if same(e, message) and not ids_differ(e.message.id, message.id)]


def _as_read(meant: Selection, entry: Entry) -> Selection:
    """The same part of a message that was read whole, while `meant` speaks of what is left of it."""
    whole = meant.cuts == meant.entry.everything()
    if whole or not entry.cuts or meant.entry.digest == entry.digest:
        return selection(entry, entry.everything() if whole else meant.cuts)
    calls = [i for i in range(len(entry.message.tool_calls)) if i not in entry.cuts.calls]
    chars = tuple(uncut(interval, entry.cuts.chars) for interval in meant.cuts.chars)
    return selection(entry, Cuts(chars, frozenset(calls[i] for i in meant.cuts.calls)))
