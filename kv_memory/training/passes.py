"""The inputs of a pass of the objective: given rows, their segments, and the mask of who sees whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from kv_memory.training.batch import Segment
from kv_memory.training.watching import Watch

Rows = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [rows, kv_heads, tokens, head_dim]."""


class RowsCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """A cache of given rows that collects the rows of the tokens that run over them."""

    def __init__(self, given: Rows | None = None) -> None:
        super().__init__(layers=[])
        self.given = given
        self.new: Rows = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Add one layer's rows and return all rows; called by the model's attention, layer by layer."""
        self.new.append((key_states, value_states))
        if self.given is None:
            return key_states, value_states
        keys, values = self.given[layer_idx]
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def alike(self) -> RowsCache:
        """Return a cache over the same given rows, without new ones."""
        return RowsCache(self.given)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of given tokens."""
        return 0 if self.given is None else self.given[0][0].shape[2]


@dataclass(frozen=True)
class Context:
    """Rows that queries can be run over."""

    rows: Rows
    segments: tuple[Segment, ...]
    """Segments of the rows, in order."""
    watch: Watch | None = None
    """Queries of the tokens, if they were kept."""
    closed: Tensor | None = None
    """Number of positions by which what follows the span was moved to close the gap, [rows]; None with the gap open."""


def visible(asking: Segment, held: Segment, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [rows, 1, asking, held]: a token sees what is real, not later, and of no other query."""
    later = held.positions[:, None, :] > asking.positions[:, :, None]
    other = (held.group[:, None, :] != 0) & (held.group[:, None, :] != asking.group[:, :, None])
    hidden = later | other | ~held.real[:, None, :]
    # Padding sees the first token, so that its softmax is over something.
    hidden[:, :, 0] &= asking.real
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def part(context: Context, place: int) -> Rows:
    """Return the rows of one segment of a context, by its index."""
    lengths = [segment.ids.shape[1] for segment in context.segments]
    start = sum(lengths[:place])
    where = slice(start, start + lengths[place])
    return [(keys[:, :, where], values[:, :, where]) for keys, values in context.rows]


def real_first(segment: Segment) -> tuple[Tensor, int]:
    """Return the places [rows, tokens] of real tokens and then padding, and the largest number of real tokens in a
    row."""
    return (~segment.real).to(torch.uint8).argsort(dim=1, stable=True), int(segment.real.sum(1).max())


def compact(context: Context) -> Context:
    """Return the context as one segment without the padding between its parts: attention over it costs half."""
    whole = concatenated(context.segments)
    order, longest = real_first(whole)
    places = order[:, :longest]
    at = places[:, None, :, None]
    rows = [(keys.take_along_dim(at, 2), values.take_along_dim(at, 2)) for keys, values in context.rows]
    return Context(rows, (whole.at(places),), closed=context.closed)


def joined(*parts: Rows) -> Rows:
    """Return these rows side by side, as one."""
    return [
        (torch.cat([keys for keys, _ in layer], 2), torch.cat([values for _, values in layer], 2))
        for layer in zip(*parts, strict=True)
    ]


def concatenated(segments: Sequence[Segment]) -> Segment:
    """Return these segments side by side, as one."""
    fields = zip(*((s.ids, s.positions, s.real, s.group) for s in segments), strict=True)
    return Segment(*(torch.cat(field, 1) for field in fields))
