"""Erasing by a hole, and reading again the tokens that attended to it most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.erasers.base import Eraser, Erasure, drop_all


class Influence(Eraser):
    """Drop the spans, then re-encode the `k` kept tokens after them that attended most to the spans, in one pass.

    Ours (no paper): a span's influence sits in few suffix tokens, and the queries that the engine kept at prefill find
    them without a forward pass. Cost: one matrix product over the suffix, and a forward pass of k tokens.
    """

    name: ClassVar[str] = "influence"
    needs: ClassVar[frozenset[str]] = frozenset({"influence"})

    def __init__(self, k: int = 32) -> None:
        self.k = k

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        if not spans:
            return Erasure(recomputed=0)
        positions, scores = engine.influence(seq, spans)
        chosen = [positions[i] for i in scores.topk(min(self.k, len(positions))).indices.tolist()]
        drop_all(engine, seq, spans)
        engine.reencode(seq, sorted(chosen))
        return Erasure(recomputed=len(chosen))
