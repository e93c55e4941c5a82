"""Exact erasing: truncate at the first span and recompute everything after it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import STEERED, Engine, SequenceId
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.positions import Interval, moves_to


class Recompute(Eraser):
    """The exact eraser: truncates at the first span and prefills the kept tokens after it again, without holes.

    The reference that the others are measured against ("full recompute" in KVEraser, arXiv 2606.17034). Cost: a prefill
    of all kept tokens after the first span, whatever the spans' length; where the engine can only go back to where it
    kept its state, also of those between that place and the span.
    """

    name: ClassVar[str] = "recompute"
    exact: ClassVar[bool] = True

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase. Closes all holes after the start and removes the steering states there.

        Without spans it recomputes from `approximate_from` on, which makes an earlier erasure exact.
        """
        starts = [start for start, _ in spans[:1]] + [p for p in (approximate_from,) if p is not None]
        if not starts:
            return Erasure(recomputed=0)
        start = min(starts)
        erased = {position for first, end in spans for position in range(first, end)}
        kept = [(p, token) for p, token in engine.cells(seq) if p >= start and p not in erased and token != STEERED]

        positions = [position for position, _ in kept]
        marks = [mark for mark in engine.marks(seq) if mark >= start]
        first = engine.replayed_from(seq, start)
        replayed = sum(1 for position in engine.positions(seq) if first <= position < start)

        engine.truncate(seq, start)
        new_start = engine.next_position(seq)
        engine.mark(seq, [new_start + bisect_left(positions, mark) for mark in marks])
        engine.prefill(seq, [token for _, token in kept])
        return Erasure(recomputed=replayed + len(kept), moves=moves_to(positions, new_start))
