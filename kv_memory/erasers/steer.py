"""Erasing by steering states: the learned eraser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.erasers.base import Eraser, Erasure, kept_after


class Steer(Eraser):
    """Replace the spans' K and V by steering states; everything else stays bit-identical, at its position.

    KVEraser (arXiv 2606.17034): the same model with a trained LoRA on runs the spans' tokens once, at their own
    positions, over what is kept before them; what it writes makes later tokens answer as if the spans had not been
    there. Later spans see the steering states of earlier ones. An eraser trained for n slots keeps the first n cells of
    a span and removes the others. A span that no kept token follows is removed. Cost: a forward pass of the spans'
    tokens. Undone exactly by writing the cells back.

    The token ids of the cells become STEERED, but the first layer's rows still depend on the tokens: where the text
    itself must leave the memory, use `drop` or `recompute`.
    """

    name: ClassVar[str] = "steer"
    needs: ClassVar[frozenset[str]] = frozenset({"steering"})
    undoable: ClassVar[bool] = True

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        return steer_all(engine, seq, spans)


def steer_all(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
    """Steer the spans with the eraser that is loaded; `recomputed` counts the steering states."""
    steering = engine.capabilities.steering
    assert steering is not None, "an eraser checks what the engine lacks first"
    last = max(kept_after(engine, seq, spans), default=-1) if spans else -1
    steered: list[Interval] = []
    for start, end in spans:
        slots = end - start if steering.slots is None else min(steering.slots, end - start)
        kept = start + slots if start < last else start
        engine.drop(seq, kept, end)
        if kept > start:
            steered.append((start, kept))
    engine.reencode(seq, [p for start, end in steered for p in range(start, end)], steering.adapter)
    return Erasure(recomputed=sum(end - start for start, end in steered), steered=tuple(steered))
