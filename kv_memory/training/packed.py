"""The four passes of the objective as two: everything but never-saw in one sequence, with a block mask.

The sequence is prefix, span, suffix, span' and queries. Span' runs with the adapter on, at the span's positions, and
sees the prefix and itself; the queries see prefix, span' and suffix, never the span. Quicker than objective.py for
short contexts; for long ones it keeps activations of tokens that have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kv_memory.training.adapter import Adapter
from kv_memory.training.batch import Batch
from kv_memory.training.objective import Objective, divergence, weighted_mean


def packed_loss(objective: Objective, adapter: Adapter, batch: Batch) -> Tensor:
    """As Objective.loss."""
    parts = (batch.prefix, batch.span, batch.suffix, batch.span, batch.queries)
    ids, positions, real = (
        torch.cat([getattr(part, name) for part in parts], 1) for name in ("ids", "positions", "real")
    )
    group = torch.cat([torch.zeros_like(part.group) for part in parts[:4]] + [batch.queries.group], 1)
    part = torch.cat([torch.full_like(item.ids, place) for place, item in enumerate(parts)], 1)
    asking, held = part[:, :, None], part[:, None, :]
    later = positions[:, None, :] > positions[:, :, None]
    other = (group[:, None, :] != 0) & (group[:, None, :] != group[:, :, None])
    # The span (1) and the suffix (2) never see span' (3); span' sees prefix (0) and itself; queries (4) not the span.
    unseen = ((asking < 3) & (held >= 3)) | ((asking == 3) & (held != 0) & (held != 3)) | ((asking == 4) & (held == 1))
    hidden = later | other | unseen | ~real[:, None, :]
    hidden[:, :, 0] &= real
    dtype = objective.model.dtype
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)
    with adapter.on_for(part == 3):
        logits = objective.model(
            input_ids=ids, position_ids=positions, attention_mask=mask[:, None], use_cache=False
        ).logits
    given = logits[:, -batch.queries.ids.shape[1] :].float().log_softmax(-1)
    return weighted_mean(divergence(objective.never_saw(batch), given), batch.weights)
