"""Erasing by steering states, and reading again the tokens that attended to the span most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.erasers.base import Erasure
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.steer import steer_all


class SteerInfluence(Influence):
    """`steer`, then re-encode the `k` tokens that `influence` chooses, over the steering states.

    Ours, of `influence` and KVEraser (arXiv 2606.17034): the steering states answer for the tokens that are not read
    again. Cost: that of both.
    """

    name: ClassVar[str] = "steer+influence"
    needs: ClassVar[frozenset[str]] = frozenset({"influence", "steering"})

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        chosen = self.choose(engine, seq, spans) if spans else []
        done = steer_all(engine, seq, spans)
        engine.reencode(seq, chosen)
        return replace(done, recomputed=done.recomputed + len(chosen))
