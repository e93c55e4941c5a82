"""Erasing by a hole, and reading again the tokens that attended to it most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import AttentionScores, Normaliser
from kv_memory.erasers.base import Reread
from kv_memory.errors import KVMemoryError
from kv_memory.positions import Interval, merge

Combine = Literal["mean", "max"]
HOPS = 2
"""Unless told otherwise."""


class Influence(Reread):
    """Drop the spans, then re-encode the `k` kept tokens after them that attended most to the spans, in one pass.

    Ours (no paper): a span's influence sits in few suffix tokens, and the queries that the engine kept at prefill find
    them without a forward pass. Cost: a matrix product over the suffix for each hop, and a forward pass of k tokens.

    `hops`: in how many parts the k are chosen. The second hop's attended most to the spans and to the first hop's, so
    that a reference to a reference is followed ("that order", and later "its status").
    `layers`: whose queries to ask, by default all that the engine kept; their scores are combined by mean or maximum.
    `normaliser`: what a score is divided by. A calibration finds the best of these for a model.
    """

    name: ClassVar[str] = "influence"
    needs: ClassVar[frozenset[str]] = frozenset({"edit", "influence"})

    def __init__(
        self,
        k: int = 32,
        *,
        hops: int = HOPS,
        layers: Sequence[int] | None = None,
        combine: Combine = "mean",
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__(k)
        if hops < 1:
            raise KVMemoryError(f"{self.name} follows references at least 1 hop (given: {hops}).")
        self.hops = hops
        self.layers = layers
        self.combine = combine
        self.normaliser = normaliser

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
        """The positions to re-encode, ascending. Call it before the spans are dropped."""
        assert isinstance(engine, AttentionScores), "checked"
        chosen: list[int] = []
        for count in shares(self.k, self.hops):
            sources = merge([*spans, *((position, position + 1) for position in chosen)])
            positions, layers = engine.influence(seq, sources, layers=self.layers, normaliser=self.normaliser)
            scores = layers.mean(0) if self.combine == "mean" else layers.amax(0)
            chosen += [positions[i] for i in scores.topk(min(count, len(positions))).indices.tolist()]
        return sorted(chosen)


def shares(k: int, hops: int) -> list[int]:
    """How many of `k` each hop chooses: alike, the first ones one more where it does not come out even."""
    return [count for hop in range(hops) if (count := k // hops + (hop < k % hops))]
