"""Erasing by a hole, and reading again what comes right after it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.erasers.base import Eraser, Erasure, drop_all, kept_after


class Repair(Eraser):
    """Drop the spans, then re-encode the first `k` kept tokens after each of them, in place.

    "Local suffix repair", a baseline of KVEraser (arXiv 2606.17034). Cost: a forward pass of at most k tokens a span.
    """

    name: ClassVar[str] = "repair"

    def __init__(self, k: int = 32) -> None:
        self.k = k

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        if not spans:
            return Erasure(recomputed=0)
        chosen = self.choose(engine, seq, spans)
        drop_all(engine, seq, spans)
        engine.reencode(seq, chosen)
        return Erasure(recomputed=len(chosen))

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
        """The positions to re-encode, ascending."""
        suffix = kept_after(engine, seq, spans)
        return sorted({p for _, end in spans for p in suffix[bisect_left(suffix, end) :][: self.k]})
