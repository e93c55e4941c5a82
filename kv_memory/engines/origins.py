"""Rows of moved cells as they were before their first move.

A move rounds what it turns to the cache's dtype. Were each to turn the result of the one before, a thousand moves would
add up a thousand roundings. All of them turn the row from before the first one instead, by the whole way: one rounding.
This costs a second copy of the keys, of moved cells alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Origins:
    """Rows of moved cells from before their first move, and how far each cell is from there. Nothing is changed in
    place, so that forks share the rows."""

    slots: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Slots of the moved cells: int64 [moved]."""
    deltas: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Positions from where a cell was first to where it is: int64 [moved]."""
    rows: tuple[Tensor, ...] = ()
    """Rows that turn with the position, such as the keys of a layer: each [1, heads, moved, dimensions]."""

    def moved(self, slots: Tensor, rows: Sequence[Tensor], delta: int) -> Origins:
        """Return these with the cells in `slots` moved by `delta`; `rows`: theirs now, each [1, heads, cells,
        dimensions], kept of those that have not been moved before."""
        fresh = self.places(slots) < 0
        kept = self
        if bool(fresh.any()):
            added = rows if bool(fresh.all()) else _chosen(rows, fresh)
            joined = [torch.cat(pair, 2) for pair in zip(self.rows, added, strict=True)] if len(self.slots) else added
            deltas = torch.cat([self.deltas, self.deltas.new_zeros(int(fresh.sum()))])
            kept = Origins(torch.cat([self.slots, slots[fresh]]), deltas, tuple(joined))
        deltas = kept.deltas.clone()
        deltas[kept.places(slots)] += delta
        return replace(kept, deltas=deltas)

    def places(self, slots: Tensor) -> Tensor:
        """Return where these slots are among the moved ones, -1 for one that is not: int64 [slots]."""
        size = 1 + max((int(part.max()) for part in (self.slots, slots) if len(part)), default=0)
        place = torch.full((size,), -1)
        place[self.slots] = torch.arange(len(self.slots))
        return place[slots]

    def without(self, slots: Tensor) -> Origins:
        """Return these without the cells in `slots`."""
        return self._only(~torch.isin(self.slots, slots))

    def copied(self, slots: Tensor) -> Origins:
        """Return those of the cells in `slots`, for a store that holds these in its slots 0, 1 and so on."""
        kept = self._only(torch.isin(self.slots, slots))
        place = torch.zeros(1 + int(slots.max()) if len(slots) else 0, dtype=torch.int64)
        place[slots] = torch.arange(len(slots))
        return replace(kept, slots=place[kept.slots])

    def _only(self, chosen: Tensor) -> Origins:
        if bool(chosen.all()):
            return self
        if not bool(chosen.any()):
            return Origins()
        return Origins(self.slots[chosen], self.deltas[chosen], tuple(_chosen(self.rows, chosen)))


def _chosen(rows: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    places = chosen.nonzero()[:, 0]
    return [part.index_select(2, places.to(part.device)) for part in rows]
