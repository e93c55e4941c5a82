"""How much kept queries attend to given cells: the score behind the `influence` eraser, ours (no paper)."""

from __future__ import annotations

import torch
from torch import Tensor

SCORES_AT_ONCE = 2**24
"""Attention scores held in memory at a time (64 MiB in float32)."""


@torch.inference_mode()
def attention_mass(
    queries: Tensor,
    keys: Tensor,
    query_positions: Tensor,
    key_positions: Tensor,
    target: Tensor,
    scaling: float,
) -> Tensor:
    """Softmax attention of each query on the target keys together, the mean over heads: [queries], in [0, 1].

    `queries` [heads, queries, head_dim] and `keys` [kv_heads, keys, head_dim] as the attention saw them (post-RoPE);
    `query_positions` [queries] and `key_positions` [keys]: a query sees the keys at positions up to its own; `target`
    bool [keys]; `scaling` of the scores. Computed in float32 from the log-sum-exp over all visible keys.
    """
    heads, count, width = queries.shape
    kv_heads, seen, _ = keys.shape
    keys = keys.float().transpose(1, 2)
    parts = []
    step = max(1, SCORES_AT_ONCE // (heads * seen))
    for start in range(0, count, step):
        part = queries[:, start : start + step].float() * scaling
        # Query heads share a key head in groups of consecutive heads, so the group becomes rows of one matrix.
        rows = part.reshape(kv_heads, -1, width)
        scores = (rows @ keys).view(heads, -1, seen)
        hidden = key_positions[None, :] > query_positions[start : start + step, None]
        scores = scores.masked_fill_(hidden, float("-inf"))
        mass = scores[..., target].logsumexp(-1) - scores.logsumexp(-1)
        parts.append(mass.exp().mean(0))
    return torch.cat(parts)
