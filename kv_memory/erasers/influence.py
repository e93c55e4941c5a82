"""Erasing by a hole, and reading again the tokens that attended to it most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from kv_memory.engines.base import Engine, Interval, Normaliser, SequenceId
from kv_memory.erasers.base import Reread

Combine = Literal["mean", "max"]


class Influence(Reread):
    """Drop the spans, then re-encode the `k` kept tokens after them that attended most to the spans, in one pass.

    Ours (no paper): a span's influence sits in few suffix tokens, and the queries that the engine kept at prefill find
    them without a forward pass. Cost: one matrix product over the suffix, and a forward pass of k tokens.

    `layers`: whose queries to ask, by default all that the engine kept; their scores are combined by mean or maximum.
    `normaliser`: what a score is divided by. A calibration finds the best of these for a model.
    """

    name: ClassVar[str] = "influence"
    needs: ClassVar[frozenset[str]] = frozenset({"influence"})

    def __init__(
        self,
        k: int = 32,
        *,
        layers: Sequence[int] | None = None,
        combine: Combine = "mean",
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__(k)
        self.layers = layers
        self.combine = combine
        self.normaliser = normaliser

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
        """The positions to re-encode, ascending. Call it before the spans are dropped."""
        positions, layers = engine.influence(seq, spans, layers=self.layers, normaliser=self.normaliser)
        scores = layers.mean(0) if self.combine == "mean" else layers.amax(0)
        return sorted(positions[i] for i in scores.topk(min(self.k, len(positions))).indices.tolist())
