"""Attribution of an answer to spans: each span is erased in a copy of the cells, and the answer is scored without it.

Leave-one-out attribution (as in ContextCite, arXiv 2409.00729, section 2), with an erasure in place of a prefill of the
conversation without the span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.ledger import Selection
from kv_memory.conversation.spans import Span, SpanKind, Target
from kv_memory.conversation.targets import find
from kv_memory.erasers.base import Eraser
from kv_memory.errors import TargetError
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.dependence import content_of, log_probabilities


class Attribution(BaseModel):
    """A span, and how much less likely an answer is without it."""

    model_config = ConfigDict(frozen=True)

    span: Span
    drop: float
    """Fall of the log-probability of the whole answer when the span is erased, in nats."""


def attribute(branch: Branch, answer: str, targets: Sequence[Target], eraser: Eraser | None) -> list[Attribution]:
    """Attribute an answer to spans; see `Session.attribute`. Callers hold the engine's lock."""
    turn = _turn(branch, answer)
    start = turn.intervals()[0][0]
    spans = [span for span in branch.ledger.spans() if span.tokens and span.end <= start]
    if targets:
        wanted = {s.span_id for target in targets for s in find(branch.ledger, target)}
        spans = [span for span in spans if span.id in wanted]
    else:
        spans = [span for span in spans if span.kind not in (SpanKind.TOOL_CALL, SpanKind.RANGE)]
    (before,) = log_probabilities(branch, [turn])
    number = branch.ledger.entries.index(turn.entry)
    found = []
    for span in spans:
        other = branch.fork(number + 1)
        try:
            other.erase(find(other.ledger, span.id), eraser)
            left = replace(turn, entry=other.ledger.entries[number])
            found.append(Attribution(span=span, drop=before - log_probabilities(other, [left])[0]))
        finally:
            other.evict()
    return sorted(found, key=lambda item: -item.drop)


def _turn(branch: Branch, answer: str) -> Selection:
    """Return the answer's content, or its calls where it has no content, or one call where that is named."""
    named = find(branch.ledger, answer)[0]
    entry = named.entry
    parts = (named,) if not named.cuts.chars else (content_of(entry), named)
    turn = next((part for part in parts if part.intervals()), None)
    if entry.message.role != "assistant" or entry.cuts or turn is None:
        raise TargetError(f"{answer!r} is no answer of the assistant that is in the cache in full.")
    return turn
