"""Training examples as tensors: prefix, span, suffix and queries, each padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Query:
    """Tokens that come after the context, alone: each query sees the context and itself."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """By token: how much the distribution after it counts. Same length."""
    kind: str = "text"
    """What it tests, for the validation table."""


@dataclass(frozen=True)
class Example:
    """A context whose span is to be erased."""

    prefix: tuple[int, ...]
    span: tuple[int, ...]
    """At least one token."""
    suffix: tuple[int, ...]
    queries: tuple[Query, ...]
    """At least one."""


@dataclass(frozen=True)
class Segment:
    """One part of every example: [rows, length] each."""

    ids: Tensor
    positions: Tensor
    real: Tensor
    """bool: not padding."""
    group: Tensor
    """Which query a token belongs to; 0 outside of queries."""

    def without(self, shift: Tensor) -> Segment:
        """The same tokens at positions that are `shift` [rows] lower."""
        return Segment(self.ids, self.positions - shift[:, None], self.real, self.group)


@dataclass(frozen=True)
class Batch:
    """Examples side by side. Positions are those of the whole conversation; never-saw's lack the span's."""

    prefix: Segment
    span: Segment
    suffix: Segment
    queries: Segment
    weights: Tensor
    """float32 [rows, query tokens]: how much the distribution after each token counts."""
    kinds: tuple[tuple[str, ...], ...]
    """By row and query."""

    @property
    def gone(self) -> Tensor:
        """[rows]: how many positions never-saw lacks."""
        return self.span.real.sum(1)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        prefix, span, suffix, queries = (
            Segment(part.ids.to(device), part.positions.to(device), part.real.to(device), part.group.to(device))
            for part in (self.prefix, self.span, self.suffix, self.queries)
        )
        return Batch(prefix, span, suffix, queries, self.weights.to(device), self.kinds)


def collate(examples: Sequence[Example]) -> Batch:
    """The batch of these examples."""
    starts = [
        (0, len(e.prefix), len(e.prefix) + len(e.span), len(e.prefix) + len(e.span) + len(e.suffix)) for e in examples
    ]
    prefix = _segment([e.prefix for e in examples], [start[0] for start in starts])
    span = _segment([e.span for e in examples], [start[1] for start in starts])
    suffix = _segment([e.suffix for e in examples], [start[2] for start in starts])
    longest = max(sum(len(query.ids) for query in e.queries) for e in examples)
    ids, positions, group = (torch.zeros(len(examples), longest, dtype=torch.long) for _ in range(3))
    real, weights = torch.zeros(len(examples), longest, dtype=torch.bool), torch.zeros(len(examples), longest)
    for row, example in enumerate(examples):
        at = 0
        for number, query in enumerate(example.queries, 1):
            where = slice(at, at + len(query.ids))
            ids[row, where] = torch.tensor(query.ids)
            positions[row, where] = torch.arange(len(query.ids)) + starts[row][3]
            group[row, where], real[row, where] = number, True
            weights[row, where] = torch.tensor(query.weights)
            at = where.stop
    kinds = tuple(tuple(query.kind for query in example.queries) for example in examples)
    return Batch(prefix, span, suffix, Segment(ids, positions, real, group), weights, kinds)


def _segment(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Segment:
    length = max(1, *map(len, rows))
    ids, positions = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        positions[row] = torch.arange(length) + start
        real[row, : len(tokens)] = True
    return Segment(ids, positions, real, torch.zeros_like(ids))
