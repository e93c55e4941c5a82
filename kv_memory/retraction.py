"""Carrying a retraction out on the branches of a session, and saying what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from kv_memory.branch import Branch
from kv_memory.edits import Edit, selections
from kv_memory.erasers.base import Eraser
from kv_memory.ledger import Ledger, Selection
from kv_memory.report import RetractionStatus
from kv_memory.resolve import Meaning
from kv_memory.spans import Span, SpanStatus


def erase(branch: Branch, concerned: Sequence[Selection], eraser: Eraser | None) -> tuple[int, str]:
    """Tokens recomputed, and the name of the eraser that did it."""
    live = any(selection.intervals() for selection in concerned)
    upgrade = eraser is not None and eraser.exact and branch.ledger.approximate_from is not None
    if not (live or upgrade):
        return 0, eraser.name if eraser else "none"
    recomputed, used = branch.erase(concerned, eraser)
    return recomputed, used.name


def erase_edits(branch: Branch, edits: Sequence[Edit], eraser: Eraser | None) -> None:
    """Erase what these edits concern in a branch."""
    erase(branch, selections(branch.ledger, edits), eraser)


def forget_edits(branch: Branch, edits: Sequence[Edit]) -> None:
    """Forget the conversation from the first message on that the edits concern."""
    numbers = [branch.ledger.entries.index(s.entry) for s in selections(branch.ledger, edits)]
    if numbers:
        branch.cut_off(min(numbers))


def never_read(meanings: Sequence[Meaning], ledgers: Sequence[Ledger]) -> None:
    """Enter as erased what is named of a conversation that no branch has read."""
    for meaning in meanings:
        if meaning.ledger not in ledgers:
            meaning.ledger.erase(selections(meaning.ledger, meaning.edits), (), exact=True)


def named_spans(named: Sequence[tuple[Ledger, set[str]]]) -> tuple[Span, ...]:
    """The spans with these ids, of each ledger."""
    found = {(id(ledger), span.id): span for ledger, ids in named for span in ledger.spans() if span.id in ids}
    return tuple(found.values())


def answers_after(meanings: Sequence[Meaning]) -> tuple[str, ...]:
    """The answers in each conversation after the first message that is meant in it."""
    ids: dict[str, None] = {}
    for ledger in {id(m.ledger): m.ledger for m in meanings}.values():
        edits = [edit for m in meanings if m.ledger is ledger for edit in m.edits]
        first = min((ledger.entries.index(s.entry) for s in selections(ledger, edits)), default=len(ledger))
        later = (e for e in ledger.entries[first + 1 :] if e.message.role == "assistant" and not e.cuts)
        ids |= dict.fromkeys(e.message.id or e.span_id for e in later)
    return tuple(ids)


def status_of(spans: Sequence[Span]) -> RetractionStatus:
    """What became of spans that were to be erased, together."""
    statuses = {span.status for span in spans}
    if statuses <= {SpanStatus.LIVE}:
        return "nothing to erase"
    return "approximate" if SpanStatus.APPROXIMATE in statuses else "exact"
