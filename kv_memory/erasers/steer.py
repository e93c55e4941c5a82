"""Erasing by steering states: the learned eraser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import AdapterPass, CellRows, require
from kv_memory.erasers.base import Eraser, Erasure, kept_after
from kv_memory.erasers.gaps import close_gaps
from kv_memory.erasers.steering import steering_of
from kv_memory.positions import Interval, moved


class Steer(Eraser):
    """The learned eraser: replaces the spans' K and V by steering states; all other cells stay bit-identical, at their
    positions.

    KVEraser (arXiv 2606.17034): the same model with a trained LoRA on runs the spans' tokens once, at their own
    positions, over what is kept before them; the rows that it writes are trained to make later tokens answer as if the
    spans had not been there. Later spans see the steering states of earlier ones. A span that no kept token follows is
    removed. Cost: a forward pass of the spans' tokens. Writing the cells back undoes it exactly.

    Ours: an eraser may be trained for n slots, which keeps n cells of a span and removes the others, with or without
    closing the gap (where it is closed, later cells move, and there is no exact undo); for slots that see what follows
    the spans too; or for slots that read one token in place of the span's (steering.py).

    The token ids of the cells become STEERED, but the first layer's rows still depend on the tokens, unless the slots
    read another: where the text itself must leave the memory, use `drop` or `recompute`.
    """

    name: ClassVar[str] = "steer"
    needs: ClassVar[frozenset[str]] = frozenset({"adapters", "steering"})
    undoable: ClassVar[bool] = True

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        return steer_all(engine, seq, spans)

    def erase_undoably(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase_undoably."""
        done = super().erase_undoably(engine, seq, spans, approximate_from)
        return replace(done, undo=None) if done.moves else done


def steer_all(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
    """Replace the spans' cells by steering states, with the eraser that is loaded; `recomputed` counts the steering
    states."""
    steering = steering_of(engine)
    assert isinstance(engine, AdapterPass) and steering is not None, "an eraser checks what the engine lacks first"
    last = max(kept_after(engine, seq, spans), default=-1) if spans else -1
    steered: list[Interval] = []
    gaps: list[tuple[int, int]] = []
    for start, end in spans:
        cells = steering.cells(start, end) if start < last else []
        for removed in zip([start, *(cell[1] for cell in cells)], [*(cell[0] for cell in cells), end], strict=True):
            engine.drop(seq, *removed)
        steered += cells
        if steering.closes:
            gaps.append((end, end - (cells[-1][1] if cells else start)))
    moves, note = close_gaps(engine, seq, gaps)
    steered = [(moved(start, moves), moved(start, moves) + end - start) for start, end in steered]
    positions = [position for start, end in steered for position in range(start, end)]
    if steering.token is not None and positions:
        rows = require(engine, CellRows, "An eraser whose slots read another token")
        slots = rows.read_cells(seq, positions)
        rows.write_cells(seq, replace(slots, token_ids=(steering.token,) * len(positions)))
    engine.reencode(seq, positions, steering.adapter, ahead=steering.sees_suffix)
    return Erasure(recomputed=len(positions), steered=tuple(steered), moves=moves, note=note)
