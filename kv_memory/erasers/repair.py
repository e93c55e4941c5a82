"""Erasing by dropping the spans, then recomputing what comes right after each of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.erasers.base import PartialRecompute, kept_after
from kv_memory.positions import Interval


class Repair(PartialRecompute):
    """An eraser that drops the spans, then recomputes the first `k` kept tokens after each of them, in place.

    "Local suffix repair", a baseline of KVEraser (arXiv 2606.17034). Cost: a forward pass of at most k tokens a span.
    """

    name: ClassVar[str] = "repair"

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
        """See PartialRecompute.choose."""
        suffix = kept_after(engine, seq, spans)
        return sorted({p for _, end in spans for p in suffix[bisect_left(suffix, end) :][: self.k]})
