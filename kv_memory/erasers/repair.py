"""Erasing by a hole, and reading again what comes right after it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.erasers.base import Reread, kept_after
from kv_memory.positions import Interval


class Repair(Reread):
    """Drop the spans, then re-encode the first `k` kept tokens after each of them, in place.

    "Local suffix repair", a baseline of KVEraser (arXiv 2606.17034). Cost: a forward pass of at most k tokens a span.
    """

    name: ClassVar[str] = "repair"

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
        """See Reread.choose."""
        suffix = kept_after(engine, seq, spans)
        return sorted({p for _, end in spans for p in suffix[bisect_left(suffix, end) :][: self.k]})
