"""Rotation of cached keys and queries to other positions, with the model's own rotary embedding.

RoPE is a rotation whose angle is linear in the position, so a row moves by one further rotation by the difference
(RoFormer, arXiv 2104.09864, section 3.2). Whether a model's variant is of that kind is not read off its configuration
but tried: see `rotation_of`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kv_memory.engines.cells import CellStore
from kv_memory.engines.transformers.probe import LayoutProbe


class Rotation:
    """Rotation of rows in the layers that have a rotary embedding; layers without one (NoPE) keep theirs."""

    def __init__(self, embedding: nn.Module, apply: Callable[..., tuple[Tensor, Tensor]], rotary: tuple[bool, ...]):
        self._embedding = embedding
        self._apply = apply
        self._rotary = rotary

    def turn(self, rows: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate rows [batch, heads, cells, head_dim] by `delta` positions, or by `delta` [batch] each; computed in
        float32."""
        by = torch.as_tensor(delta, device=rows.device).reshape(-1, 1)
        cos, sin = self._embedding(rows.new_zeros(1, dtype=torch.float32), by)
        # NOTE: YaRN and LongRoPE fold a factor on the attention scores into cos and sin; the row has it already.
        factor = getattr(self._embedding, "attention_scaling", 1.0)
        width = cos.shape[-1]
        turned, _ = self._apply(rows[..., :width].float(), rows[..., :width].float(), cos / factor, sin / factor)
        return torch.cat([turned.to(rows.dtype), rows[..., width:]], dim=-1)

    def turn_keys(self, layer: int, keys: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate the keys of this layer as `turn` does; those of a layer without rotary embedding stay."""
        return self.turn(keys, delta) if self._rotary[layer] else keys

    @torch.inference_mode()
    def move(self, store: CellStore, slots: Tensor, delta: int) -> None:
        """Rotate the keys and kept queries of these slots by `delta` positions."""
        probes = dict(zip(store.layout.probe_layers, store.queries, strict=True))
        for layer, keys in enumerate(store.keys):
            if self._rotary[layer]:
                for rows in (keys, probes[layer]) if layer in probes else (keys,):
                    where = slots.to(rows.device)
                    rows[:, :, where] = self.turn(rows[:, :, where], delta)


@torch.inference_mode()
def rotation_of(model: nn.Module, near: LayoutProbe, far: LayoutProbe, delta: int) -> Rotation | None:
    """Find how this model's keys move; None where they cannot.

    `near` and `far` saw the same lone token, `far` `delta` positions after `near`. The keys of a layer must differ by
    exactly one rotation, or not at all; anything else (learned positions, another kind of embedding) cannot be moved.
    """
    embedding = next((module for module in model.modules() if hasattr(module, "inv_freq")), None)
    apply: Any = getattr(sys.modules[type(near.modules[0]).__module__], "apply_rotary_pos_emb", None)
    if embedding is None or apply is None:
        return None
    rotation = Rotation(embedding, apply, tuple(not _same(near.rows[i][0], far.rows[i][0]) for i in sorted(near.rows)))
    for layer, rotary in enumerate(rotation._rotary):
        (keys, values), (far_keys, far_values) = near.rows[layer], far.rows[layer]
        if not _same(values, far_values):
            return None
        try:
            if rotary and not (
                _same(rotation.turn(keys, delta), far_keys) and _same(rotation.turn(far_keys, -delta), keys)
            ):
                return None
        except (TypeError, RuntimeError, KeyError):  # an embedding that is called in another way
            return None
    return rotation


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal but for the rounding of their dtype."""
    tolerance = 1e-4 if one.dtype == torch.float32 else 2e-2
    return bool((one - other).float().norm() <= tolerance * other.float().norm())
