"""Rotation of keys to other positions, with frequencies measured on the model itself.

Which kind of rotary embedding a model has (base, linear or YaRN scaling, Llama 3's frequencies) is not read from its
file: keys of a lone token at several positions show each pair's frequency, and whether turning by it is all that the
position does.

NOTE: llama.cpp's own shift (`seq_add`) is not used: it moves the cells of forks too, multiplies the keys of YaRN models
by their attention factor once more, and ends the process for some quantised types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FARTHER = 16
"""Factor between the distances of two measurements. It multiplies the error of the earlier one, which stays far below
half a turn."""


@dataclass(frozen=True)
class Heads:
    """Orders of the numbers in a row [..., heads * head_dim]: llama.cpp's and Hugging Face's."""

    head_dim: int
    rotary: int
    """Number of dimensions of a head that turn with the position: the first ones here."""
    neighbours: bool
    """Whether llama.cpp pairs neighbours (Llama); else, as Hugging Face does, dimensions half of `rotary` apart."""
    before: int = 0
    """Number of dimensions that llama.cpp has before those that turn (latent attention)."""

    def unpack(self, rows: Tensor) -> Tensor:
        """Convert [..., heads * head_dim] in llama.cpp's order to [..., heads, head_dim] in Hugging Face's."""
        rows = rows.reshape(*rows.shape[:-1], -1, self.head_dim).roll(-self.before, -1)
        if not self.neighbours:
            return rows
        turned = self._swapped(rows, (-1, 2))
        return torch.cat([turned, rows[..., self.rotary :]], -1)

    def pack(self, rows: Tensor) -> Tensor:
        """Convert [..., heads, head_dim] in Hugging Face's order to [..., heads * head_dim] in llama.cpp's."""
        if self.neighbours:
            turned = self._swapped(rows, (2, -1))
            rows = torch.cat([turned, rows[..., self.rotary :]], -1)
        return rows.roll(self.before, -1).flatten(-2)

    def _swapped(self, rows: Tensor, shape: tuple[int, int]) -> Tensor:
        """Transpose the rotary dimensions, as a table of this shape."""
        table = rows[..., : self.rotary].reshape(*rows.shape[:-1], *shape)
        return table.transpose(-1, -2).flatten(-2)


@dataclass(frozen=True)
class Rotation:
    """Rotation of rows in Hugging Face's order."""

    frequencies: Tensor
    """Angle of each pair in radians a position, float64 [rotary / 2]."""

    def turn(self, rows: Tensor, delta: int | Tensor) -> Tensor:
        """Rotate rows [..., head_dim] by `delta` positions, or rows [..., cells, head_dim] by `delta` [cells] each;
        rounded once."""
        half = len(self.frequencies)
        precise = torch.float64 if rows.dtype == torch.float32 else torch.float32
        # Most cells are moved as far as others: the angles of each distance are computed once.
        deltas, each = torch.unique(torch.as_tensor(delta), return_inverse=True)
        angles = (deltas[:, None] * self.frequencies).remainder(2 * torch.pi)
        cos, sin = (wave.to(precise)[each] for wave in (angles.cos(), angles.sin()))
        first, second = rows[..., :half].to(precise), rows[..., half : 2 * half].to(precise)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return torch.cat([turned.to(rows.dtype), rows[..., 2 * half :]], -1)


@dataclass(frozen=True)
class Layer:
    """The cells of one layer."""

    table: int
    """Place of the layer in a state (rows.State.tables)."""
    heads: Heads
    """Order of the numbers in a key, and in a query."""
    kv_heads: int
    value_dim: int
    """Numbers in the V of a head; 0 where V is part of K (latent attention)."""
    rotation: Rotation | None
    """Rotation of the keys; None where keys do not turn with the position, or do more than that."""
    windowed: bool
    """Whether its tokens see those of a sliding window alone."""

    @property
    def widths(self) -> tuple[int, int]:
        """Return the widths of K and V of a head as callers see them.

        Of latent attention these are the two parts of a key that V is one of: what does not turn, and what does.
        """
        if self.value_dim:
            return self.heads.head_dim, self.value_dim
        return self.heads.head_dim - self.heads.rotary, self.heads.rotary

    def split(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return K and V as callers see them, of rows as llama.cpp has them: [heads, cells, width]."""
        return (keys, values) if self.value_dim else (keys[..., self.heads.rotary :], keys[..., : self.heads.rotary])

    def whole(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return K and V as llama.cpp has them; the inverse of `split`."""
        return (keys, values) if self.value_dim else (torch.cat([values, keys], -1), values[..., :0])


def measured(keys_at: Callable[[int], Tensor], heads: Heads, farthest: int, tolerance: float) -> Rotation | None:
    """Measure the rotation of a layer; None where the position does something else to the keys.

    `keys_at`: returns the keys [kv_heads, head_dim] of one and the same lone token at a position.
    """
    if not heads.rotary or farthest < 3:
        return None
    start, distance, half = keys_at(0), 1, heads.rotary // 2
    frequencies = torch.zeros(half, dtype=torch.float64)
    while distance <= farthest:
        turn = (_pairs(keys_at(distance), half) * _pairs(start, half).conj()).sum(0).angle()
        expected = frequencies * distance
        away = (turn - expected + torch.pi).remainder(2 * torch.pi) - torch.pi
        # The first angle is taken as it is: a frequency is between none and half a turn a position.
        frequencies = (turn if distance == 1 else expected + away) / distance
        distance *= FARTHER
    rotation = Rotation(frequencies)
    for position in (2, farthest // 2 + 1):
        there = keys_at(position)
        for one, other in ((rotation.turn(start, position), there), (rotation.turn(there, -position), start)):
            if not bool((one - other).float().norm() <= tolerance * other.float().norm()):
                return None
    return rotation


def _pairs(keys: Tensor, half: int) -> Tensor:
    return torch.complex(keys[..., :half].double(), keys[..., half : 2 * half].double())
