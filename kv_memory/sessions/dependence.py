"""Dependence of later turns on a span: how much less likely they are without it.

A turn that was written while a span was visible may repeat it, follow from it, or have nothing to do with it. Its
tokens are scored with the span and without it; the fall in log-probability, in nats per token, tells which
(leave-one-out; cf. ContextCite, arXiv 2409.00729, which estimates the same from many prompts with parts left out).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.alignment import align
from kv_memory.conversation.ledger import Entry, Selection
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.spans import SpanKind
from kv_memory.engines.parts import Scoring, require
from kv_memory.positions import Interval
from kv_memory.sessions.branch import Branch

DEPENDS = 0.01
"""Fall in log-probability, in nats per token, from which on a turn counts as dependent (benchmarks/provenance.py)."""


class Dependence(BaseModel):
    """A later turn of the assistant, and how much it depends on what was erased."""

    model_config = ConfigDict(frozen=True)

    span_id: str
    message_id: str | None
    kind: SpanKind
    tokens: int
    before: float
    """Log-probability of the turn's tokens with the erased text in view, in nats per token."""
    after: float
    """Log-probability of the turn's tokens without the erased text, in nats per token."""

    @property
    def drop(self) -> float:
        """Return how much likelier the turn was with the erased text, in nats per token."""
        return self.before - self.after

    @property
    def depends(self) -> bool:
        """Return whether the turn counts as dependent: its log-probability fell by `DEPENDS` or more."""
        return self.drop >= DEPENDS


def turns_after(branch: Branch, position: int) -> list[Selection]:
    """Return what the assistant wrote after a position and is cached in full: each content and each tool call."""
    return [part for entry in branch.ledger.entries if entry.start > position for part in _parts(entry)]


def log_probabilities(branch: Branch, turns: Sequence[Selection], after: int = -1) -> list[float]:
    """Return the log-probability of each turn, in nats: the sum over its tokens, with the message before it recomputed.

    The question before an answer may carry influence of what was erased; recomputed over the cells as they are now, it
    does not. Only messages that begin after the position `after` are recomputed. Nothing in the branch changes. Costs a
    forward pass of these messages and turns, and one copy of the cells. Callers hold the engine's lock.
    """
    if not turns:
        return []
    engine = require(branch.engine, Scoring, "Scoring answers")
    begins = [_begin(branch, turn, after) for turn in turns]
    last_first = sorted(range(len(turns)), key=lambda i: -begins[i])
    found: dict[int, float] = {}
    cells = engine.cells(branch.seq)
    seq = engine.fork(branch.seq, begins[last_first[0]])
    try:
        for i in last_first:
            engine.truncate(seq, begins[i])
            start, end = turns[i].intervals()[0][0], turns[i].intervals()[-1][1]
            read = [cell for cell in cells if begins[i] <= cell[0] < end]
            rows = engine.score(seq, [token for _, token in read])
            scored = zip(read, rows, strict=True)
            found[i] = float(sum(row[token] for (position, token), row in scored if position >= start))
    finally:
        engine.free(seq)
    return [found[i] for i in range(len(turns))]


def _begin(branch: Branch, turn: Selection, after: int) -> int:
    """Return where the message before the turn begins, or the turn where that message may not be recomputed.

    It is recomputed only if it is whole and begins after the position `after`.
    """
    entries = branch.ledger.entries
    number = entries.index(turn.entry)
    before = entries[number - 1] if number else None
    if before is None or before.cuts or before.start <= after or not before.runs:
        return turn.intervals()[0][0]
    return before.start


def dependences(turns: Sequence[Selection], before: Sequence[float], after: Sequence[float]) -> list[Dependence]:
    """Return how much each turn depends on what was erased, highest first.

    `before` and `after` are what `log_probabilities` gives for the turns before and after the erasure.
    """
    ranked = [
        Dependence(
            span_id=turn.span_id,
            message_id=turn.entry.message.id,
            kind=SpanKind.TOOL_CALL if turn.cuts.calls else SpanKind.ASSISTANT,
            tokens=_length(turn.intervals()),
            before=was / _length(turn.intervals()),
            after=now / _length(turn.intervals()),
        )
        for turn, was, now in zip(turns, before, after, strict=True)
    ]
    return sorted(ranked, key=lambda found: -found.drop)


def places_of_dependent(
    branches: Iterable[Branch], found: Sequence[Dependence], messages: Sequence[Message], cuts: Mapping[int, Cuts]
) -> set[int]:
    """Return which of these messages are the turns that were found dependent, by their place.

    `cuts`: what is retracted of the messages. The first of the branches that shares such a turn with the conversation
    tells. Callers hold the engine's lock.
    """
    dependent = {dependence.span_id.split(".")[0] for dependence in found if dependence.depends}
    for branch in branches:
        kept = align(branch.ledger, messages, cuts).kept
        places = {i for i, n in enumerate(kept) if branch.ledger.entries[n].span_id in dependent}
        if places:
            return places
    return set()


def _parts(entry: Entry) -> Iterator[Selection]:
    if entry.message.role != "assistant" or entry.cuts:
        return
    yield from (part for part in (content_of(entry), *_calls(entry)) if part.intervals())


def content_of(entry: Entry) -> Selection:
    """Return the content of a message, without its tool calls."""
    return Selection(entry, entry.span_id, Cuts(((0, len(entry.message.content)),)))


def _calls(entry: Entry) -> Iterator[Selection]:
    for number in range(len(entry.message.tool_calls)):
        yield Selection(entry, f"{entry.span_id}.call{number}", Cuts(calls=frozenset([number])))


def _length(intervals: Sequence[Interval]) -> int:
    return sum(end - start for start, end in intervals)
