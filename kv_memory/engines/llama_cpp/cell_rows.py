"""Reading, writing and moving the rows of a context's cells, with numbers in Hugging Face's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.base import Cells
from kv_memory.engines.cells import CellStore, compact
from kv_memory.engines.llama_cpp.context import Context
from kv_memory.engines.llama_cpp.passes import runs_of
from kv_memory.engines.llama_cpp.rotation import Heads, Rotation
from kv_memory.engines.llama_cpp.rows import Layout, State
from kv_memory.positions import Interval


class ContextRows:
    """The rows of a context's cells. A write that fails leaves the cells as they were."""

    def __init__(self, context: Context, layout: Layout, heads: Heads) -> None:
        self._context = context
        self._layout = layout
        self._heads = heads
        self.layers = layout.layers

    def read(self, home: int, intervals: Sequence[Interval]) -> tuple[Tensor, Tensor]:
        """Copy K and V, each [layers, kv_heads, cells, head_dim], of these intervals, positions ascending."""
        state = self._layout.blank(())
        if intervals:
            state = State.parse(self._context.read_part(home, intervals))
        keys = [self._heads.unpack(_in_order(state, "keys", layer)) for layer in range(len(state.keys))]
        values = [_in_order(state, "values", layer) for layer in range(len(state.values))]
        return self._stacked(keys), self._stacked([v.view(len(v), -1, self._heads.head_dim) for v in values])

    def check(self, cells: Cells, queries: list[tuple[int, ...]]) -> None:
        """Raise ValueError for the cells of another model. `queries`: the shapes that the kept queries must have."""
        shape = self._layout.width // self._heads.head_dim, len(cells.positions), self._heads.head_dim
        cells.check([shape] * self.layers, [shape] * self.layers, queries)

    def write(self, home: int, cells: Cells, there: Sequence[int]) -> None:
        """Put cells at their positions, bit-identical. `there`: those of the positions that hold a cell already."""
        written = self._layout.blank(cells.positions)
        for layer in range(self.layers):
            written.keys[layer][:] = self._heads.pack(cells.keys[layer].transpose(0, 1))
            written.values[layer][:] = cells.values[layer].transpose(0, 1).flatten(1)
        self._replace(home, [(run.start, run.end) for run in runs_of(there, there)], written.data)

    def move(
        self, home: int, store: CellStore, slots: Tensor, delta: int, rotation: Rotation, *, probed: Sequence[int]
    ) -> None:
        """Move these cells, all from a position on, by `delta` positions. Forks keep theirs.

        llama.cpp has no place for keys from before the first move: they are kept outside of the context, as is what
        the store has of the probe layers, `probed`.
        """
        interval = int(store.position[slots[0]]), int(store.position[slots[-1]]) + 1
        before = self._context.read_part(home, [interval])
        moved = State.parse(before.copy())
        order = torch.from_numpy(np.argsort(moved.positions))
        keys = [self._heads.unpack(rows[order]).transpose(0, 1)[None] for rows in moved.keys]
        where = compact(slots)
        origins = store.origins.moved(slots, [*keys, *store.read(where).queries], delta)
        places = origins.places(slots)
        at, deltas = compact(places), origins.deltas[places]
        turned = [rotation.turn(rows[:, :, at], deltas) for rows in origins.rows]
        for rows, there in zip(moved.keys, turned[: self.layers], strict=True):
            rows[order] = self._heads.pack(there[0].transpose(0, 1))
        moved.positions += delta
        self._replace(home, [interval], moved.data, before)
        for index, (layer, queries) in enumerate(zip(probed, turned[self.layers :], strict=True)):
            store.put_keys(index, where, turned[layer])
            store.put_queries(index, where, queries)
        store.move(slots, delta, origins)

    def distance(self, old: NDArray[np.uint8], new: NDArray[np.uint8], layer: int) -> Tensor:
        """Measure how far K and V together of two states are apart in a layer: [cells], positions ascending."""
        states = State.parse(old), State.parse(new)
        kinds: tuple[Literal["keys"], Literal["values"]] = ("keys", "values")
        before, after = (torch.cat([_in_order(state, kind, layer).float() for kind in kinds], -1) for state in states)
        return (after - before).square().sum(-1).sqrt()

    def _replace(
        self,
        home: int,
        intervals: Sequence[Interval],
        data: NDArray[np.uint8],
        before: NDArray[np.uint8] | None = None,
    ) -> None:
        """Remove the cells of these intervals and add those of a state."""
        if before is None and intervals:
            before = self._context.read_part(home, intervals)
        for interval in intervals:
            self._context.remove(home, *interval)
        try:
            self._context.add(home, data)
        except BaseException:
            if before is not None:
                self._context.add(home, before)
            raise

    def _stacked(self, rows: list[Tensor]) -> Tensor:
        """Stack rows [cells, heads, head_dim] of each layer to [layers, heads, cells, head_dim]."""
        if not rows:
            empty = self._layout.blank((0,)).keys[0][:0]
            return self._stacked([self._heads.unpack(empty)] * self.layers)
        return torch.stack(rows).transpose(1, 2).contiguous()


def _in_order(state: State, kind: Literal["keys", "values"], layer: int) -> Tensor:
    """Copy a layer's rows in the order of their positions: [cells, row]."""
    rows: Tensor = (state.keys if kind == "keys" else state.values)[layer]
    return rows[torch.from_numpy(np.argsort(state.positions))]
