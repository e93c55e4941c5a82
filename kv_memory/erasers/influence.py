"""Erasing by dropping the spans, then recomputing the tokens that attended to them most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import AttentionScores, Normaliser
from kv_memory.erasers.base import DEFAULT_BUDGET, PartialRecompute, first_after, kept_after
from kv_memory.erasers.budget import Budget, Rates
from kv_memory.errors import KVMemoryError
from kv_memory.positions import Interval, merge

if TYPE_CHECKING:
    from torch import Tensor

Combine = Literal["mean", "max"]
HOPS = 2
"""Rounds in which an eraser chooses its tokens, by default."""
NEAR = 64
"""First tokens after the spans that are run again in any case, by default."""


class Influence(PartialRecompute):
    """An eraser that drops the spans, then recomputes in one pass the kept tokens that attended most to them.

    Ours (no paper): a span's influence sits in few suffix tokens, and the queries that the engine kept at prefill find
    them without a forward pass. Cost: a matrix product over the suffix for each hop, and a forward pass of the budget's
    tokens.

    `hops`: the number of rounds in which the tokens are chosen. The second round takes those that attended most to
    the spans and to the tokens of the first round, so that a reference to a reference is followed ("that order", and
    later "its status").

    `near`: the number of first tokens after the spans that are run again in any case, at most a third of the budget:
    what is next to a span refers to it in ways that attention at one layer does not show.

    `layers`: the probe layers whose queries give the scores, by default all of them. `combine`: whether the scores of
    several layers are combined by their mean or their maximum. `normaliser`: what a score is divided by. A calibration
    finds the best of these for a model.
    """

    name: ClassVar[str] = "influence"
    needs: ClassVar[frozenset[str]] = frozenset({"edit", "influence"})

    def __init__(
        self,
        budget: int | str | Budget = DEFAULT_BUDGET,
        *,
        rates: Rates | None = None,
        hops: int = HOPS,
        near: int = NEAR,
        layers: Sequence[int] | None = None,
        combine: Combine = "mean",
        normaliser: Normaliser = "softmax",
    ) -> None:
        super().__init__(budget, rates=rates)
        if hops < 1:
            raise KVMemoryError(f"{self.name} follows references at least 1 hop (given: {hops}).")
        if near < 0:
            raise KVMemoryError(f"{self.name} runs 0 or more of the first tokens in any case (given: {near}).")
        self.hops = hops
        self.near = near
        self.layers = layers
        self.combine = combine
        self.normaliser = normaliser

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], count: int) -> list[int]:
        """See PartialRecompute.choose."""
        near = first_after(kept_after(engine, seq, spans), spans, min(self.near, count // 3))
        taken, chosen = set(near), list[int]()
        for part in shares(count - len(near), self.hops):
            sources = merge([*spans, *((position, position + 1) for position in chosen)])
            positions, scores = self._scores(engine, seq, sources)
            scores[[i for i, position in enumerate(positions) if position in taken]] = float("-inf")
            free = len(positions) - sum(position in taken for position in positions)
            chosen += [positions[i] for i in scores.topk(min(part, free)).indices.tolist()]
        return sorted([*near, *chosen])

    def _scores(self, engine: Engine, seq: SequenceId, sources: Sequence[Interval]) -> tuple[list[int], Tensor]:
        assert isinstance(engine, AttentionScores), "checked"
        positions, layers = engine.influence(seq, sources, layers=self.layers, normaliser=self.normaliser)
        return positions, layers.mean(0) if self.combine == "mean" else layers.amax(0)


def shares(k: int, hops: int) -> list[int]:
    """Return how many of `k` tokens each hop chooses: `k // hops`, and one more in the first `k % hops` of them."""
    return [count for hop in range(hops) if (count := k // hops + (hop < k % hops))]
