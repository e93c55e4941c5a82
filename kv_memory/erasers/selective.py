"""Erasing by dropping the spans, then recomputing the tokens whose cells differ most without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit, Deviation
from kv_memory.erasers.base import Erasure, PartialRecompute, kept_after
from kv_memory.erasers.budget import Budget, Rates
from kv_memory.erasers.shift import Shift
from kv_memory.positions import Interval, moved


class Selective(PartialRecompute):
    """An eraser that drops the spans, then recomputes those of the kept tokens after them that deviate most in layer 1.

    The choice of tokens is CacheBlend's (arXiv 2405.16444, section 4.3: high KV deviation tokens, found in the first
    layers), and so is the share of 15 %; there it blends chunks that were cached apart. Cost: a forward pass of all
    tokens after the first span through two layers, and of the chosen ones through all.
    """

    name: ClassVar[str] = "selective"
    needs: ClassVar[frozenset[str]] = frozenset({"deviation", "edit"})

    def __init__(self, budget: int | str | Budget = "15%", *, rates: Rates | None = None) -> None:
        super().__init__(budget, rates=rates)

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        assert isinstance(engine, CellEdit) and isinstance(engine, Deviation), "checked"
        later = kept_after(engine, seq, spans) if spans else []
        if not later:
            return self.remove(engine, seq, spans)
        count = self.budget.tokens(engine, self.name, len(later), self.rates)
        done = self.remove(engine, seq, spans)
        now = [moved(position, done.moves) for position in later]
        best = engine.deviation(seq, now).topk(count).indices.tolist()
        engine.reencode(seq, sorted(now[i] for i in best))
        return replace(done, recomputed=len(later))

    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], count: int) -> list[int]:
        """Raise NotImplementedError: the deviations are known once the spans are gone."""
        raise NotImplementedError


class ShiftSelective(Selective):
    """An eraser that shifts as `shift` does, then recomputes the tokens that `selective` chooses, where they are now.

    CacheBlend's choice (arXiv 2405.16444) without the hole. Cost: that of both.
    """

    name: ClassVar[str] = "shift+selective"
    needs: ClassVar[frozenset[str]] = frozenset({"deviation", "edit", "shift"})

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Remove the spans' cells and close the gaps; holes that earlier erasures left stay."""
        return Shift().erase(engine, seq, spans)
