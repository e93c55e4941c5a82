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

from kv_memory.engines.cells import CellStore, compact, on_device
from kv_memory.engines.transformers.probe import LayoutProbe


class Rotation:
    """Rotation of rows in the layers that have a rotary embedding; layers without one (NoPE) keep theirs."""

    def __init__(self, embedding: nn.Module, apply: Callable[..., tuple[Tensor, Tensor]], rotary: tuple[bool, ...]):
        self._frequencies = _frequencies(embedding)
        self._apply = apply
        self._rotary = rotary

    def turn(self, rows: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate rows [batch, heads, cells, head_dim] by `delta` positions, or by `delta` [batch] each;
        rounded once."""
        by = torch.as_tensor(delta, device=rows.device).reshape(-1, 1)
        return self._turned(rows, *self._waves(by))

    def turn_keys(self, layer: int, keys: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate the keys of this layer as `turn` does; those of a layer without rotary embedding stay."""
        return self.turn(keys, delta) if self._rotary[layer] else keys

    def leads(self, rows: Tensor, delta: int, there: Tensor) -> bool:
        """Return whether `turn` gives these rows, but for the rounding of their dtype, in each dimension."""
        basis = torch.eye(rows.shape[-1], device=rows.device)[None, None]
        # A dimension is made of two, and what is rounded, sine and cosine too, is so in proportion to their size.
        size = rows.float().abs() @ (self.turn(basis, delta)[0, 0] != 0).float()
        tolerance = 1e-4 if rows.dtype == torch.float32 else 2e-2
        return bool(((self.turn(rows, delta) - there).float().abs() <= tolerance * size + 1e-6).all())

    @torch.inference_mode()
    def move(self, store: CellStore, slots: Tensor, delta: int) -> None:
        """Move these cells by `delta` positions: rotate their keys and kept queries. On an exception they are as
        before."""
        turning = [keys for layer, keys in enumerate(store.keys) if self._rotary[layer]]
        probes = zip(store.layout.probe_layers, store.queries, strict=True)
        turning += [queries for layer, queries in probes if self._rotary[layer]]
        turning = [rows[..., : len(self._frequencies)] for rows in turning]
        where = compact(slots)
        before = [rows[:, :, on_device(where, rows.device)].clone() for rows in turning]
        origins = store.origins.moved(slots, before, delta)
        places = origins.places(slots)
        at = compact(places)
        # Most cells moved as far as others did: the angles of each distance are computed once.
        deltas, each = torch.unique(origins.deltas[places], return_inverse=True)
        cosines, sines = (
            {
                device: wave.to(device, _precise(store.layout.dtype))[each.to(device)][None]
                for device in set(store.layout.devices)
            }
            for wave in self._waves(deltas)
        )
        try:
            for rows, origin in zip(turning, origins.rows, strict=True):
                device = rows.device
                turned = self._turned(origin[:, :, on_device(at, device)], cosines[device], sines[device])
                rows[:, :, on_device(where, rows.device)] = turned
            store.move(slots, delta, origins)
        except BaseException:
            for rows, old in zip(turning, before, strict=True):
                rows[:, :, on_device(where, rows.device)] = old
            raise

    def _waves(self, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosine and sine [..., rotary dimensions] of the angles of these distances, float64."""
        angles = (deltas[..., None] * self._frequencies.to(deltas.device)).remainder(2 * torch.pi)
        return angles.cos(), angles.sin()

    def _turned(self, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate rows, with arithmetic that is more precise than their dtype."""
        precise = _precise(rows.dtype)
        width = cos.shape[-1]
        turning = rows[..., :width].to(precise)
        # The function turns queries and keys; one head does for the other of the two.
        turned, _ = self._apply(turning, turning[:, :1], cos.to(rows.device, precise), sin.to(rows.device, precise))
        return torch.cat([turned.to(rows.dtype), rows[..., width:]], dim=-1)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which rows of this one are rotated."""
    return torch.float64 if dtype == torch.float32 else torch.float32


def _frequencies(embedding: nn.Module) -> Tensor:
    """Return the angle of each rotary dimension in radians a position, float64 [rotary dimensions].

    NOTE: the embedding shows them in float32, where angles of far positions are rounded by more than a key in float16
    is; `inv_freq` holds their exact values, but only the embedding knows which dimension has which.
    """
    exact: Any = embedding.inv_freq
    cos, sin = embedding(torch.zeros(1, device=exact.device), torch.ones(1, 1, device=exact.device))
    # YaRN and LongRoPE fold a factor on the attention scores into both, which leaves the angle as it is.
    shown = torch.atan2(sin.double(), cos.double()).flatten().cpu()
    exact = exact.double().flatten().cpu()
    nearest = exact[(shown[:, None] - exact).abs().argmin(1)]
    return torch.where((nearest - shown).abs() <= 1e-6 * shown.abs(), nearest, shown)


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
    # Without a rotary embedding both passes computed the very same numbers. A tolerance would not tell: where a few
    # dimensions that hardly turn are far larger than the others, the whole key hardly changes.
    turning = [not torch.equal(near.rows[layer][0], far.rows[layer][0]) for layer in sorted(near.rows)]
    try:
        rotation = Rotation(embedding, apply, tuple(turning))
        for layer, rotary in enumerate(turning):
            (keys, values), (far_keys, far_values) = near.rows[layer], far.rows[layer]
            if not _same(values, far_values):
                return None
            if rotary and not (rotation.leads(keys, delta, far_keys) and rotation.leads(far_keys, -delta, keys)):
                return None
    except (TypeError, RuntimeError, KeyError):  # an embedding that is called in another way
        return None
    return rotation


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal but for the rounding of their dtype."""
    tolerance = 1e-4 if one.dtype == torch.float32 else 2e-2
    return bool((one - other).float().norm() <= tolerance * other.float().norm())
