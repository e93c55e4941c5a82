"""What later turns owe to a span: how much less likely they are without it.

A turn that was written while a span was visible may repeat it, follow from it, or have nothing to do with it. Scoring
its tokens with the span and without it tells: the fall in log-probability, in nats a token (leave-one-out; cf.
ContextCite, arXiv 2409.00729, which estimates the same from many prompts with parts left out).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.ledger import Entry, Selection
from kv_memory.conversation.messages import Cuts
from kv_memory.conversation.spans import SpanKind
from kv_memory.engines.parts import Scoring, require
from kv_memory.positions import Interval
from kv_memory.sessions.branch import Branch

DEPENDS = 0.01
"""Nats a token from which on a turn counts as dependent (benchmarks/provenance.py)."""


class Dependence(BaseModel):
    """How much a later turn hangs on what was erased."""

    model_config = ConfigDict(frozen=True)

    span_id: str
    message_id: str | None
    kind: SpanKind
    tokens: int
    before: float
    """Log-probability of its tokens in view of what was erased, nats a token."""
    after: float
    """The same without it."""

    @property
    def drop(self) -> float:
        """How much likelier the turn was, nats a token."""
        return self.before - self.after

    @property
    def depends(self) -> bool:
        """It would probably have been another."""
        return self.drop >= DEPENDS


def turns_after(branch: Branch, position: int) -> list[Selection]:
    """What the assistant wrote after a position and is there in full: each content and each tool call."""
    return [part for entry in branch.ledger.entries if entry.start > position for part in _parts(entry)]


def log_probabilities(branch: Branch, turns: Sequence[Selection], after: int = -1) -> list[float]:
    """Sum of the log-probabilities of each turn's tokens, in nats, with the message before it read once more.

    The question before an answer may carry what was erased; read again over the cells as they are now it does not. Only
    messages that begin after the position `after` are. Nothing changes. Costs a forward pass of these messages and
    turns and one copy of the cells. Callers hold the engine's lock.
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
    """Where the message before the turn begins, if it is there in full and may be read again; else the turn."""
    entries = branch.ledger.entries
    number = entries.index(turn.entry)
    before = entries[number - 1] if number else None
    if before is None or before.cuts or before.start <= after or not before.runs:
        return turn.intervals()[0][0]
    return before.start


def dependences(turns: Sequence[Selection], before: Sequence[float], after: Sequence[float]) -> list[Dependence]:
    """The turns by how much they hang on what was erased, most first."""
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


def _parts(entry: Entry) -> Iterator[Selection]:
    if entry.message.role != "assistant" or entry.cuts:
        return
    yield from (part for part in (content_of(entry), *_calls(entry)) if part.intervals())


def content_of(entry: Entry) -> Selection:
    """What a message says, without its tool calls."""
    return Selection(entry, entry.span_id, Cuts(((0, len(entry.message.content)),)))


def _calls(entry: Entry) -> Iterator[Selection]:
    for number in range(len(entry.message.tool_calls)):
        yield Selection(entry, f"{entry.span_id}.call{number}", Cuts(calls=frozenset([number])))


def _length(intervals: Sequence[Interval]) -> int:
    return sum(end - start for start, end in intervals)
