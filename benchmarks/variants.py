"""Erasers that only answer a question of a benchmark; one that proves its worth moves into kv_memory.erasers.

All close the gap as `shift+influence` does, so that only the choice of tokens tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit, require
from kv_memory.erasers.base import Eraser, Erasure, kept_after
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.shift import Shift
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.evaluation.oracle import deviations
from kv_memory.positions import Interval, merge, moved


class Rescored(ShiftInfluence):
    """An eraser that repairs half of the k, then the other half: those that attend most to what was repaired."""

    name: ClassVar[str] = "scored again"

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        edit = require(engine, CellEdit, self.name)
        count = self.budget.tokens(engine, self.name, len(kept_after(engine, seq, spans)))
        half = ShiftInfluence(count // 2, hops=1, layers=self.layers)
        chosen = half.choose(engine, seq, spans, count // 2)
        done = half.erase(engine, seq, spans)
        first = [moved(position, done.moves) for position in chosen]
        if first:
            rest = Influence(hops=1, layers=self.layers)
            second = rest.choose(engine, seq, merge((p, p + 1) for p in first), count - len(first))
            edit.reencode(seq, sorted({*first, *second}))
        return Erasure(recomputed=count, moves=done.moves)


class ByDeviation(Eraser):
    """An eraser that recomputes the `k` later tokens whose cells change most: an oracle that costs a full recompute."""

    name: ClassVar[str] = "oracle"

    def __init__(self, k: int) -> None:
        self.k = k

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        positions, change = deviations(engine, seq, spans)
        best = change.square().mean(0).topk(min(self.k, len(positions))).indices.tolist()
        moves = Shift().erase(engine, seq, spans).moves
        require(engine, CellEdit, self.name).reencode(seq, sorted(moved(positions[i], moves) for i in best))
        return Erasure(recomputed=len(best), moves=moves)
