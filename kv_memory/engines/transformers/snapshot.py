"""Cells of a store as values that outlive it: for undo, healing and tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kv_memory.engines.base import Cells
from kv_memory.engines.cells import CellStore, Rows, compact


def read_cells(store: CellStore, positions: Sequence[int]) -> Cells:
    """Copy these cells, in position order. Raises ValueError for a position that holds no cell."""
    slots = store.find(sorted(set(positions)))
    rows = store.read(compact(slots))
    return Cells(
        positions=tuple(store.position[slots].tolist()),
        token_ids=tuple(store.token[slots].tolist()),
        keys=tuple(layer[0] for layer in rows.keys),
        values=tuple(layer[0] for layer in rows.values),
        queries=tuple(layer[0] for layer in rows.queries),
    )


def write_cells(store: CellStore, cells: Cells) -> None:
    """Put cells back, bit-identical, over the cells at their positions or as new ones. Later moves turn what is
    written.

    Raises ValueError, with the cells as they were, where these are the cells of another model.
    """
    layout, count = store.layout, len(cells.positions)
    probed = [layout.layers[i] for i in layout.probe_layers]
    cells.check(
        [(layer.kv_heads, count, layer.key_dim) for layer in layout.layers],
        [(layer.kv_heads, count, layer.value_dim) for layer in layout.layers],
        [(layer.heads, count, layer.query_dim) for layer in probed],
    )
    if not count:
        return
    positions, token_ids = torch.tensor(cells.positions), torch.tensor(cells.token_ids)
    missing = ~torch.isin(positions, store.order()[0])
    if bool(missing.any()):
        store.allocate(positions[missing], token_ids[missing])
    slots = store.find(cells.positions)
    store.token[slots] = token_ids
    store.forget(slots)
    parts = (cells.keys, cells.values, cells.queries)
    store.write(compact(slots), Rows(*([layer[None] for layer in part] for part in parts)))
