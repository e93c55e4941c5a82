"""Training examples as tensors: prefix, span, suffix and queries, each padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kv_memory.erasers.steering import Steering


@dataclass(frozen=True)
class Query:
    """Tokens that follow the context on their own: a query sees the context and itself, but no other query."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """Weights of the distributions after each token, as many as `ids`."""
    kind: str = "text"
    """Name of what the query tests, for the validation table."""


@dataclass(frozen=True)
class Example:
    """A context whose span is to be erased."""

    prefix: tuple[int, ...]
    span: tuple[int, ...]
    """Tokens of the span, at least one."""
    suffix: tuple[int, ...]
    queries: tuple[Query, ...]
    """Queries over the context, at least one."""


@dataclass(frozen=True)
class Segment:
    """One part of every example: tensors [rows, length]."""

    ids: Tensor
    positions: Tensor
    real: Tensor
    """Mask of the tokens that are not padding, bool."""
    group: Tensor
    """Number of the query that a token belongs to; 0 outside of queries."""

    def to(self, device: torch.device) -> Segment:
        """Return the segment on a device."""
        parts = self.ids, self.positions, self.real, self.group
        return Segment(*(part.to(device) for part in parts))

    def without(self, shift: Tensor) -> Segment:
        """Return the segment at positions that are lower by `shift` [rows]."""
        return replace(self, positions=self.positions - shift[:, None])

    def ahead(self) -> Segment:
        """Return the segment for use in a mask: all its tokens are visible, as if none came later."""
        return replace(self, positions=torch.zeros_like(self.positions))

    def at(self, places: Tensor) -> Segment:
        """Return the tokens at these places [rows, places]."""
        parts = self.ids, self.positions, self.real, self.group
        return Segment(*(part.gather(1, places) for part in parts))

    def hiding(self, places: Tensor) -> Segment:
        """Return the segment for use in a mask: nobody sees the tokens at these places [rows, places]."""
        return replace(self, real=self.real.scatter(1, places, False))


@dataclass(frozen=True)
class Batch:
    """Examples side by side. Positions are those of the whole conversation; never-saw's lack the span's."""

    prefix: Segment
    span: Segment
    slots: Segment
    """Cells of the span that become steering states, with the tokens that are run for them."""
    suffix: Segment
    queries: Segment
    weights: Tensor
    """Weights of the distributions after each query token, float32 [rows, query tokens]."""
    kinds: tuple[tuple[str, ...], ...]
    """Kinds of the queries, by row and query."""

    @property
    def gone(self) -> Tensor:
        """Return the number of positions that never-saw lacks, [rows]."""
        return self.span.real.sum(1)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        parts = self.prefix, self.span, self.slots, self.suffix, self.queries
        prefix, span, slots, suffix, queries = (part.to(device) for part in parts)
        return Batch(prefix, span, slots, suffix, queries, self.weights.to(device), self.kinds)


def collate(examples: Sequence[Example], steering: Steering | None = None) -> Batch:
    """Make a batch of these examples; `steering`: how the eraser is used, by default as the published one."""
    starts = [
        (0, len(e.prefix), len(e.prefix) + len(e.span), len(e.prefix) + len(e.span) + len(e.suffix)) for e in examples
    ]
    prefix = _segment([e.prefix for e in examples], [range(start[0], start[1]) for start in starts])
    span = _segment([e.span for e in examples], [range(start[1], start[2]) for start in starts])
    slots = _slots(examples, steering) if steering else span
    suffix = _segment([e.suffix for e in examples], [range(start[2], start[3]) for start in starts])
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
    return Batch(prefix, span, slots, suffix, Segment(ids, positions, real, group), weights, kinds)


def _slots(examples: Sequence[Example], steering: Steering) -> Segment:
    ids, positions = [], []
    for example in examples:
        places = [place for cell in steering.cells(0, len(example.span)) for place in range(*cell)]
        positions.append([len(example.prefix) + place for place in places])
        ids.append([example.span[place] if steering.token is None else steering.token for place in places])
    return _segment(ids, positions)


def _segment(rows: Sequence[Sequence[int]], at: Sequence[Sequence[int]]) -> Segment:
    length = max(1, *map(len, rows))
    ids, positions = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (tokens, where) in enumerate(zip(rows, at, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        positions[row, : len(tokens)] = torch.tensor(where, dtype=torch.long)
        real[row, : len(tokens)] = True
    return Segment(ids, positions, real, torch.zeros_like(ids))
