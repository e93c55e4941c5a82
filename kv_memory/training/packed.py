"""The four passes of the objective as two: everything but never-saw in one sequence, with a block mask.

The sequence is prefix, span, suffix, slots, the suffix's tokens that are recomputed, and queries. Slots run with the
adapter on, at the span's positions, and see the prefix and themselves (and the suffix, if the eraser is one for that);
what comes after them sees prefix, slots and suffix, never the span. It is faster than objective.py for short contexts;
for long ones it keeps activations of tokens that have no gradient. Choosing the tokens to recompute takes another pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kv_memory.training.adapter import Adapter
from kv_memory.training.batch import Batch
from kv_memory.training.objective import Objective, divergence, weighted_mean

SPAN, SUFFIX, SLOTS, AGAIN = 1, 2, 3, 4
SEES = ((0,), (0, 1), (0, 1, 2), (0, 3), (0, 2, 3, 4), (0, 2, 3, 4, 5))
"""Parts that each part of the sequence sees, in the sequence's order."""


def packed_loss(objective: Objective, adapter: Adapter, batch: Batch, repair: int = 0) -> Tensor:
    """Return the same loss as `Objective.loss`.

    Raises ValueError for an eraser that closes the gap: within one sequence keys cannot be moved.
    """
    if objective.closing is not None:
        raise ValueError("a gap cannot be closed within one pass")
    if repair:
        places = objective.choose(batch, objective.read(batch), repair)
    else:
        places = torch.zeros_like(batch.suffix.ids[:, :0])
    parts = (batch.prefix, batch.span, batch.suffix, batch.slots, batch.suffix.at(places), batch.queries)
    ids, positions, real, group = (
        torch.cat([getattr(part, name) for part in parts], 1) for name in ("ids", "positions", "real", "group")
    )
    part = torch.cat([torch.full_like(item.ids, place) for place, item in enumerate(parts)], 1)
    kept = torch.cat([item.real for item in (*parts[:SUFFIX], batch.suffix.hiding(places), *parts[SLOTS:])], 1)
    sees = torch.tensor([[held in row for held in range(len(SEES))] for row in SEES], device=ids.device)
    sees[SLOTS, SUFFIX] = objective.sees_suffix
    asking, held = part[:, :, None], part[:, None, :]
    later = (positions[:, None, :] > positions[:, :, None]) & ~((asking == SLOTS) & (held == SUFFIX))
    other = (group[:, None, :] != 0) & (group[:, None, :] != group[:, :, None])
    there = torch.where(asking < AGAIN, real[:, None, :], kept[:, None, :])
    hidden = later | other | ~sees[asking, held] | ~there
    hidden[:, :, 0] &= real
    dtype = objective.model.dtype
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)
    with adapter.on_for(part == SLOTS):
        logits = objective.model(
            input_ids=ids, position_ids=positions, attention_mask=mask[:, None], use_cache=False
        ).logits
    given = logits[:, -batch.queries.ids.shape[1] :].float().log_softmax(-1)
    return weighted_mean(divergence(objective.never_saw(batch), given), batch.weights)
