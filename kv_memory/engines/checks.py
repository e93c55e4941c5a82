"""Checks of an engine's arguments before it changes a cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kv_memory.engines.base import STEERED
from kv_memory.engines.cells import CellStore
from kv_memory.errors import ContextLengthError
from kv_memory.positions import Interval


def check_tokens(store: CellStore, slots: Tensor) -> None:
    """Raise ValueError for a cell that holds a steering state and no token."""
    steered = slots[store.token[slots] == STEERED]
    if len(steered):
        raise ValueError(f"the cell at position {int(store.position[steered[0]])} holds a steering state, not a token")


def check_appended(ids: Sequence[int], positions: Sequence[int], start: int, vocabulary: int) -> None:
    """Raise ValueError for tokens that cannot be appended at these positions to a sequence that ends at `start`."""
    if len(ids) != len(positions):
        raise ValueError(f"{len(ids)} tokens and {len(positions)} positions")
    if not all(0 <= token < vocabulary for token in ids):
        raise ValueError(f"a token id is not in the model's vocabulary of {vocabulary}")
    if any(after <= before for before, after in pairwise((start - 1, *positions))):
        raise ValueError(f"positions must ascend from {start}, where the sequence ends, or later")


def check_fits(name: str, limit: int, end: int) -> None:
    """Raise ContextLengthError where positions below `end` are more than the model's context."""
    if end > limit:
        raise ContextLengthError(
            f"{end} positions do not fit in the context of {name} ({limit}); shorten the conversation."
        )


def check_move(store: CellStore, start: int, delta: int) -> None:
    """Raise ValueError where the cells from `start` on would run into those before it."""
    below, moving = store.between(0, start), store.between(start)
    free_from = int(store.position[below[-1]]) + 1 if len(below) else 0
    if int(store.position[moving[0]]) + delta < free_from:
        raise ValueError(f"cells from position {start} on cannot move by {delta}: cells end at {free_from}")


def asked_about(store: CellStore, spans: Sequence[Interval]) -> tuple[Tensor, Tensor]:
    """Return the slots of the tokens after the first span's start and outside all spans, and those of the spans' cells;
    for `influence`."""
    erased = store.find([position for start, end in spans for position in range(start, end)])
    later = store.between(min((start for start, _ in spans), default=store.next_position))
    return later[~torch.isin(later, erased) & (store.token[later] != STEERED)], erased


def integers(values: Tensor) -> list[int]:
    """Convert an integer tensor to a list."""
    numbers: list[int] = values.tolist()
    return numbers
