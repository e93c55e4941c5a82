"""Reading, writing and moving the rows of a context's cells, with numbers in Hugging Face's order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.base import Cells
from kv_memory.engines.cells import CellStore, compact
from kv_memory.engines.llama_cpp.context import Context
from kv_memory.engines.llama_cpp.passes import runs_of
from kv_memory.engines.llama_cpp.rotation import Layer, Rotation
from kv_memory.engines.llama_cpp.rows import TYPES
from kv_memory.positions import Interval


class ContextRows:
    """The rows of a context's cells. A write that fails leaves the cells as they were."""

    def __init__(self, context: Context, layers: Sequence[Layer | None]) -> None:
        self._context = context
        self._layers = layers
        self._dtype = TYPES[context.layout.kind]

    def shapes(self, cells: int) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """Return the shapes [kv_heads, cells, width] of K and V of this many cells, in each layer; no heads in one
        that has no cells of its own."""
        heads = [0 if layer is None else layer.kv_heads for layer in self._layers]
        widths = [(0, 0) if layer is None else layer.widths for layer in self._layers]
        keys, values = ([(count, cells, width[i]) for count, width in zip(heads, widths, strict=True)] for i in (0, 1))
        return keys, values

    @property
    def numbers(self) -> int:
        """Return the numbers that K and V of one token have, in all layers."""
        return sum(layer.kv_heads * sum(layer.widths) for layer in self._layers if layer is not None)

    def whole_keys(self, cells: Cells, layer: int) -> Tensor:
        """Return the keys of a layer with cells of its own as its queries meet them: [kv_heads, cells, head_dim]."""
        known = self._layers[layer]
        assert known is not None
        return known.whole(cells.keys[layer], cells.values[layer])[0]

    def read(self, home: int, intervals: Sequence[Interval]) -> tuple[list[Tensor], list[Tensor]]:
        """Copy K and V of these intervals, positions ascending: [kv_heads, cells, width] of each layer."""
        state = self._context.parse(self._context.read_part(home, intervals))
        shapes = self.shapes(len(state.positions[0]))
        keys, values = ([torch.empty(shape, dtype=self._dtype) for shape in part] for part in shapes)
        for index, layer in enumerate(self._layers):
            if layer is not None and state.tables:
                table, order = state.tables[layer.table], state.tables[layer.table].order()
                rows = table.values[order].view(len(order), layer.kv_heads, layer.value_dim)
                parts = layer.split(layer.heads.unpack(table.keys[order]).transpose(0, 1), rows.transpose(0, 1))
                keys[index].copy_(parts[0])
                values[index].copy_(parts[1])
        return keys, values

    def write(self, home: int, cells: Cells, there: Sequence[int]) -> None:
        """Put cells at their positions, bit-identical. `there`: those of the positions that hold a cell already."""
        written = self._context.layout.blank(cells.positions)
        for layer, keys, values in zip(self._layers, cells.keys, cells.values, strict=True):
            if layer is not None:
                table, rows = written.tables[layer.table], layer.whole(keys, values)
                table.keys[:] = layer.heads.pack(rows[0].transpose(0, 1))
                table.values[:] = rows[1].transpose(0, 1).flatten(1)
        self._replace(home, [(run.start, run.end) for run in runs_of(there, there)], written.data)

    def move(self, home: int, store: CellStore, slots: Tensor, delta: int, *, probed: Sequence[int]) -> None:
        """Move these cells, all from a position on, by `delta` positions. Forks keep theirs.

        llama.cpp has no place for keys from before the first move: they are kept outside of the context, as is what
        the store has of the probe layers, `probed`. Every layer with cells has a rotation.
        """
        interval = int(store.position[slots[0]]), int(store.position[slots[-1]]) + 1
        before = self._context.read_part(home, [interval])
        moved = self._context.parse(before.copy())
        own = {index: layer for index, layer in enumerate(self._layers) if layer is not None}
        tables = {index: moved.tables[layer.table] for index, layer in own.items()}
        keys = [
            layer.heads.unpack(tables[index].keys[tables[index].order()]).transpose(0, 1)[None]
            for index, layer in own.items()
        ]
        where = compact(slots)
        origins = store.origins.moved(slots, [*keys, *store.read(where).queries], delta)
        places = origins.places(slots)
        at, deltas = compact(places), origins.deltas[places]
        turned = [
            _rotation(own[index]).turn(rows[:, :, at], deltas)
            for index, rows in zip([*own, *probed], origins.rows, strict=True)
        ]
        for (index, layer), rows in zip(own.items(), turned[: len(own)], strict=True):
            tables[index].keys[tables[index].order()] = layer.heads.pack(rows[0].transpose(0, 1))
        kept = dict(zip(own, turned, strict=False))
        moved.move(delta)
        self._replace(home, [interval], moved.data, before)
        for index, (layer_number, queries) in enumerate(zip(probed, turned[len(own) :], strict=True)):
            store.put_keys(index, where, kept[layer_number])
            store.put_queries(index, where, queries)
        store.move(slots, delta, origins)

    def distance(self, old: NDArray[np.uint8], new: NDArray[np.uint8], layer: int) -> Tensor:
        """Measure how far K and V together of two states are apart in a layer with cells of its own: [cells], positions
        ascending."""
        known = self._layers[layer]
        assert known is not None
        before, after = (self._context.parse(data).tables[known.table] for data in (old, new))
        rows = [torch.cat([t.keys[t.order()].float(), t.values[t.order()].float()], -1) for t in (before, after)]
        return (rows[1] - rows[0]).square().sum(-1).sqrt()

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


def _rotation(layer: Layer) -> Rotation:
    assert layer.rotation is not None, "checked by the engine"
    return layer.rotation
