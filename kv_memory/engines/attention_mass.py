"""How much kept queries attend to given cells: the score behind the `influence` eraser, ours (no paper)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kv_memory.engines.cells import CellStore

MASK_AT_ONCE = 2**25
"""Entries of the mask held in memory at a time (32 MiB)."""


@torch.inference_mode()
def attention_mass(store: CellStore, layer: int, asking: Tensor, target: Tensor, scaling: float) -> Tensor:
    """Softmax attention of each asking cell on the target cells together, the mean over heads: float32 [asking].

    `asking` and `target` are slots; `layer` is a probe layer and `scaling` that of its scores. Each query sees the
    cells at positions up to its own; its softmax is over all that it sees. It is attention over values that are 1 for
    a target cell and 0 for another, so that the library's fused kernels do it without holding a score; their rounding
    is that of the cells' dtype.
    """
    used, heads, groups = store.used, store.layout.heads, store.layout.heads // store.layout.kv_heads
    queries = store.queries[store.layout.probe_layers.index(layer)]
    keys = store.keys[layer][:, :, :used].repeat_interleave(groups, dim=1)
    # As wide as a head, since kernels want values of the keys' shape; only the first column is read.
    values = keys.new_zeros(1, 1, used, store.layout.head_dim)
    values[:, :, target.to(keys.device), 0] = 1
    values = values.expand(1, heads, used, store.layout.head_dim)
    position = store.position[:used].to(keys.device)
    masses = [queries.new_zeros(0, dtype=torch.float32)]
    for part in torch.split(asking, max(1, MASK_AT_ONCE // max(used, 1))):
        where = part.to(keys.device)
        seen = position[None, :] <= position[where, None]
        mass = scaled_dot_product_attention(queries[:, :, where], keys, values, seen[None, None], scale=scaling)
        masses.append(mass[0, :, :, 0].float().mean(0))
    return torch.cat(masses)
