"""How keys turn with the position, measured on the model itself, and rows moved by that.

Which kind of rotary embedding a model has (base, linear or YaRN scaling, Llama 3's frequencies) is not read from its
file: keys of a lone token at several positions show each pair's frequency, and whether turning by it is all that the
position does. llama.cpp's own shift (`seq_add`) is not used: it moves the cells of forks too, multiplies the keys of
YaRN models by their attention factor once more, and ends the process for some quantised types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FARTHER = 16
"""How much farther each measurement is than the last one, whose error it multiplies: it stays far below half a turn."""


@dataclass(frozen=True)
class Heads:
    """The order of numbers in a row of llama.cpp and in Hugging Face's, [..., heads * head_dim]."""

    head_dim: int
    rotary: int
    """The first dimensions of a head, that turn with the position."""
    neighbours: bool
    """llama.cpp pairs neighbours (Llama); else, as Hugging Face does, dimensions half of `rotary` apart."""

    def unpack(self, rows: Tensor) -> Tensor:
        """[..., heads * head_dim] in llama.cpp's order to [..., heads, head_dim] in Hugging Face's."""
        rows = rows.reshape(*rows.shape[:-1], -1, self.head_dim)
        if not self.neighbours:
            return rows
        turned = self._swapped(rows, (-1, 2))
        return torch.cat([turned, rows[..., self.rotary :]], -1)

    def pack(self, rows: Tensor) -> Tensor:
        """The other way."""
        if self.neighbours:
            turned = self._swapped(rows, (2, -1))
            rows = torch.cat([turned, rows[..., self.rotary :]], -1)
        return rows.flatten(-2)

    def _swapped(self, rows: Tensor, shape: tuple[int, int]) -> Tensor:
        """The rotary dimensions as a table of this shape, read by columns."""
        table = rows[..., : self.rotary].reshape(*rows.shape[:-1], *shape)
        return table.transpose(-1, -2).flatten(-2)


@dataclass(frozen=True)
class Rotation:
    """Turns rows in Hugging Face's order."""

    frequencies: Tensor
    """Radians a position of each pair, float64 [rotary / 2]."""

    def turn(self, rows: Tensor, delta: int) -> Tensor:
        """Rows [..., head_dim] as if they stood `delta` positions further; computed in float32."""
        half = len(self.frequencies)
        angles = (self.frequencies * delta).remainder(2 * torch.pi)
        cos, sin = angles.cos().float(), angles.sin().float()
        first, second = rows[..., :half].float(), rows[..., half : 2 * half].float()
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        return torch.cat([turned.to(rows.dtype), rows[..., 2 * half :]], -1)


def measured(keys_at: Callable[[int], Tensor], heads: Heads, farthest: int, tolerance: float) -> Rotation | None:
    """The rotation of a model, or None where the position does something else to the keys.

    `keys_at`: keys [layers, kv_heads, head_dim] of one and the same lone token at a position.
    """
    if not heads.rotary or farthest < 3:
        return None
    start, distance, half = keys_at(0), 1, heads.rotary // 2
    frequencies = torch.zeros(half, dtype=torch.float64)
    while distance <= farthest:
        turn = (_pairs(keys_at(distance), half) * _pairs(start, half).conj()).sum((0, 1)).angle()
        expected = frequencies * distance
        away = (turn - expected + torch.pi).remainder(2 * torch.pi) - torch.pi
        # The first measurement has nothing to go by: a frequency is between none and half a turn a position.
        frequencies = (turn if distance == 1 else expected + away) / distance
        distance *= FARTHER
    rotation = Rotation(frequencies)
    for position in (2, farthest // 2 + 1):
        there = keys_at(position)
        for one, other in ((rotation.turn(start, position), there), (rotation.turn(there, -position), start)):
            # Each layer by itself: some models turn theirs by different frequencies.
            errors = (one - other).float().flatten(1).norm(dim=1) / other.float().flatten(1).norm(dim=1)
            if not bool((errors <= tolerance).all()):
                return None
    return rotation


def _pairs(keys: Tensor, half: int) -> Tensor:
    return torch.complex(keys[..., :half].double(), keys[..., half : 2 * half].double())
