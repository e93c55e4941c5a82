"""Attention in a pass of the objective: the queries of some layers, and attention mass from them.

It is that of kv_memory.engines.attention_mass, but for batches and with a gradient to the keys.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kv_memory.engines.transformers.forward import layer_of

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention kernels to use. cuDNN is left out since it plans again for every shape: batches have different lengths, and
a step took almost three times as long."""


class Watch:
    """A recorder of the post-RoPE queries of these layers (None: all) in one pass."""

    def __init__(self, layers: Container[int] | None = None) -> None:
        self.layers = layers
        self.queries: dict[int, Tensor] = {}
        """Queries by layer, [rows, heads, tokens, head_dim]."""
        self.scaling: dict[int, float] = {}

    sinks = True

    def mask(self, module: nn.Module, given: Tensor | None) -> Tensor | None:
        """Return the mask that the pass was given; without one attention is causal."""
        return given

    def record(self, module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        """Keep a layer's queries; called by the attention function (engines.transformers.attention.Recorder)."""
        layer = layer_of(module)
        if self.layers is None or layer in self.layers:
            scaling = options.get("scaling")
            self.queries[layer] = query
            self.scaling[layer] = float(query.shape[-1] ** -0.5 if scaling is None else scaling)


def attention_mass(queries: Tensor, keys: Tensor, target: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return the share of each query's attention that rests on the target cells: [rows, heads, tokens].

    queries [rows, heads, tokens, head_dim], keys [rows, kv_heads, cells, head_dim], target bool [rows, cells], mask
    additive [rows, 1, tokens, cells]; in the dtype of the queries. It is computed as attention over values that are 1
    for a target cell and 0 for another.
    """
    rows, heads, _, size = queries.shape
    keys = keys.repeat_interleave(heads // keys.shape[1], 1)
    # As wide as a head, since kernels want values of the keys' shape; only the first column is read.
    values = queries.new_zeros(rows, 1, keys.shape[2], size)
    values[..., 0] = target[:, None].to(queries.dtype)
    values = values.expand(-1, heads, -1, -1)
    with torch.autocast(queries.device.type, enabled=False), sdpa_kernel(KERNELS):
        shares = scaled_dot_product_attention(
            queries, keys.to(queries.dtype), values, attn_mask=mask.to(queries.dtype), scale=scaling
        )
    return shares[..., 0]
