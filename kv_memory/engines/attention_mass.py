"""How much kept queries attend to given cells: the score behind the `influence` eraser, ours (no paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_memory.engines.cells import CellStore

SCORES_AT_ONCE = 2**22
"""Attention scores held in memory at a time: 16 MiB in float32, about a CPU's cache."""
SCORES_AT_ONCE_CUDA = 2**27
"""The same on a GPU, where few large passes are quicker: 512 MiB."""


@torch.inference_mode()
def attention_mass(store: CellStore, layer: int, asking: Tensor, target: Tensor, scaling: float) -> Tensor:
    """Softmax attention of each asking cell on the target cells together, the mean over heads: float32 [asking].

    `asking` and `target` are slots; `layer` is a probe layer and `scaling` that of its scores. Each query sees the
    cells at positions up to its own; its softmax is over all that it sees. In passes of bounded memory.
    """
    queries = store.queries[store.layout.probe_layers.index(layer)][0]
    keys = store.keys[layer][0, :, : store.used].float().transpose(1, 2)
    position = store.position[: store.used].to(queries.device)
    at_once = SCORES_AT_ONCE_CUDA if queries.device.type == "cuda" else SCORES_AT_ONCE
    step = max(1, at_once // (store.layout.heads * store.used))
    masses = [queries.new_zeros(0, dtype=torch.float32)]
    for part in torch.split(asking, step):
        where = part.to(queries.device)
        # Consecutive query heads share a key head, so that a group of heads becomes rows of one matrix.
        rows = (queries[:, where].float() * scaling).reshape(store.layout.kv_heads, -1, store.layout.head_dim)
        scores = (rows @ keys).view(store.layout.heads, len(part), store.used)
        scores.masked_fill_(position[None, :] > position[where, None], float("-inf"))
        masses.append(scores.softmax(-1)[..., target.to(queries.device)].sum(-1).mean(0))
    return torch.cat(masses)
