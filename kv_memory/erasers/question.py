"""Recomputing for a question: the cells that it reads and that still carry what was erased."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import AttentionScores, CellEdit


def recompute_for(
    engine: AttentionScores, seq: SequenceId, stale: Mapping[int, float], start: int, count: int
) -> list[int]:
    """Recompute the `count` stale cells that a question reads most, then the question; return their positions,
    ascending, without the question's.

    The question is the cells from position `start` on, read over the cells as they are. A stale cell (`Erasure.stale`)
    counts as what it attended to the spans times what the question attends to it. Ours (no paper): few cells decide one
    answer, and the question says which. Cost: a product of the question's queries with all keys, and a forward pass of
    `count` cells and the question.
    """
    assert isinstance(engine, CellEdit), "an engine with kept queries edits cells"
    positions, paid = engine.attention(seq, start)
    scores = torch.tensor([stale.get(position, 0.0) for position in positions], device=paid.device) * paid
    count = min(count, int((scores > 0).sum()))
    chosen = sorted(positions[i] for i in scores.topk(count).indices.tolist())
    if chosen:
        engine.reencode(seq, [*chosen, *(position for position in engine.positions(seq) if position >= start)])
    return chosen
