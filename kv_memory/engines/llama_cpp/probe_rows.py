"""The queries and keys of the probe layers, kept outside of the context, as passes show them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_memory.engines.cells import CellLayout, CellStore, LayerShape, Slots, compact
from kv_memory.engines.llama_cpp.probe import Probe
from kv_memory.engines.llama_cpp.rotation import Layer
from kv_memory.engines.llama_cpp.watch import Watch, rows_of
from kv_memory.engines.parts import ProbeLayers, chosen_layers
from kv_memory.engines.reach import Reach


class ProbeRows:
    """Writes what passes show of the probe layers into the stores of sequences."""

    def __init__(self, found: Probe, watch: Watch, wanted: ProbeLayers, reach: Reach) -> None:
        """Choose the probe layers, and watch them from now on.

        `reach`: of layers that do not see all. Raises ValueError for a layer without keys of its own.
        """
        self._watch = watch
        self._attention = found.attention
        able = {index: layer for index, layer in enumerate(found.layers) if layer is not None and found.attention}
        whole = [index for index, layer in able.items() if not layer.windowed]
        self.layers = chosen_layers(wanted, len(found.layers), list(able), whole) if able else ()
        self._own: list[Layer] = [able[index] for index in self.layers]
        shapes = [
            LayerShape(
                kv_heads=layer.kv_heads,
                key_dim=layer.heads.head_dim,
                value_dim=0,
                heads=found.attention[index].heads,
                query_dim=layer.heads.head_dim,
                device=torch.device("cpu"),
                reach=reach if layer.windowed else Reach(),
                sinks=found.attention[index].sinks,
            )
            for index, layer in zip(self.layers, self._own, strict=True)
        ]
        self.layout = CellLayout(tuple(shapes), found.dtype, tuple(range(len(shapes))))
        watch.want(rows_of({index: found.attention[index] for index in self.layers}))

    @property
    def numbers(self) -> float:
        """Return the numbers that are kept of a token in one probe layer, the mean over those."""
        kept = [(shape.heads + shape.kv_heads) * shape.query_dim for shape in self.layout.layers]
        return sum(kept) / max(len(kept), 1)

    def scaling(self, layer: int) -> float:
        """Return the scaling of a layer's scores."""
        return self._attention[layer].scaling

    def shapes(self, cells: int) -> list[tuple[int, int, int]]:
        """Return the shape of the queries of this many cells, in each probe layer."""
        return [(shape.heads, cells, shape.query_dim) for shape in self.layout.layers]

    def forget(self) -> None:
        """Clear what was seen until now."""
        self._watch.take()

    def note(self, store: CellStore, slots: Slots, count: int) -> None:
        """Keep what the pass of these cells showed."""
        seen = self._watch.take()
        keys, queries = (
            # the last ones: an attempt for which there was no room came before
            [
                layer.heads.unpack(seen[kind, index][-count:].flatten(1)).transpose(0, 1).to(self.layout.dtype)
                for index, layer in zip(self.layers, self._own, strict=True)
            ]
            for kind in ("keys", "queries")
        )  # in the dtype of the cache, as llama.cpp rounds what it keeps
        self.put(store, slots, keys, queries)

    def put(self, store: CellStore, slots: Slots, keys: Sequence[Tensor], queries: Sequence[Tensor]) -> None:
        """Write keys and queries [heads, cells, head_dim] of each probe layer."""
        where = slots if isinstance(slots, slice) else compact(slots)
        for index, (layer_keys, layer_queries) in enumerate(zip(keys, queries, strict=True)):
            store.put_keys(index, where, layer_keys[None])
            store.put_queries(index, where, layer_queries[None])
