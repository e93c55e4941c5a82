"""Rows of layers with a window, once those that no later token sees are given back: fewer rows than the store has
slots."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max
"""Position of a slot or row that holds no cell: beyond every query, so that a mask by position hides it."""


class WindowRows:
    """Where each slot's cell is among the rows of the layers with a window, and which rows are free."""

    def __init__(self) -> None:
        self.row = torch.full((0,), -1)
        """Row of each slot, int64 [slots]; -1 for a slot without a cell and for a cell that was given back."""
        self.position = torch.full((0,), EMPTY)
        """Position of each row's cell, int64 [rows]; EMPTY for a free row."""
        self.used = 0
        """One past the last row in use."""

    def take(self, slots: Tensor, positions: Tensor) -> None:
        """Take a row for each of these slots (int64 [cells])."""
        count = len(slots)
        free = (self.position[: self.used] == EMPTY).nonzero()[:count, 0]
        rows = torch.cat([free, torch.arange(self.used, self.used + count - len(free))])
        self.used = max(self.used, int(rows[-1]) + 1 if count else 0)
        self.row = _longer(self.row, 1 + int(slots.max()) if count else 0, -1)
        self.position = _longer(self.position, self.used, EMPTY)
        self.row[slots] = rows
        self.position[rows] = positions

    def give_back(self, slots: Tensor) -> Tensor:
        """Free the rows of these slots, where they have one, and return these rows: the caller wipes them."""
        rows = self.row[slots]
        rows = rows[rows >= 0]
        self.row[slots] = -1
        self.position[rows] = EMPTY
        held = (self.position[: self.used] != EMPTY).nonzero()
        self.used = int(held[-1]) + 1 if len(held) else 0
        return rows

    def holds(self, slots: Tensor) -> Tensor:
        """Return which of these slots have a row: bool [slots]."""
        return self.row[slots] >= 0

    def rows(self, slots: Tensor) -> Tensor:
        """Return the rows of these slots. Raises ValueError for a cell that was given back."""
        rows = self.row[slots]
        if bool((rows < 0).any()):
            raise ValueError("the rows of these cells in layers with a window were given back")
        return rows

    def move(self, slots: Tensor, delta: int) -> None:
        """Note that these cells have moved by `delta` positions."""
        self.position[self.rows(slots)] += delta


def _longer(values: Tensor, length: int, fill: int) -> Tensor:
    """Return the values, with `fill` after them to a power of two of at least this length where they are shorter."""
    if len(values) >= length:
        return values
    return torch.cat([values, values.new_full((2 ** (length - 1).bit_length() - len(values),), fill)])
