"""Cells of a store as values that outlive it: for undo, healing and tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_memory.engines.base import Cells
from kv_memory.engines.cells import CellStore, Rows, compact


def read_cells(store: CellStore, positions: Sequence[int]) -> Cells:
    """Copy these cells, in position order. Raises ValueError for a position that holds no cell."""
    slots = store.find(sorted(set(positions)))
    rows = store.read(compact(slots))
    return Cells(
        positions=tuple(store.position[slots].tolist()),
        token_ids=tuple(store.token[slots].tolist()),
        keys=_stacked(rows.keys),
        values=_stacked(rows.values),
        queries=_stacked(rows.queries) if rows.queries else None,
    )


def write_cells(store: CellStore, cells: Cells) -> None:
    """Put cells back, bit-identical, over the cells at their positions or as new ones. Later moves turn what is
    written.

    Raises ValueError, with the cells as they were, where these are the cells of another model.
    """
    layout, count = store.layout, len(cells.positions)
    shape = (layout.layers, layout.kv_heads, count, layout.head_dim)
    queries = (len(layout.probe_layers), layout.heads, count, layout.head_dim) if layout.probe_layers else None
    found = None if cells.queries is None else tuple(cells.queries.shape)
    if (tuple(cells.keys.shape), tuple(cells.values.shape), found) != (shape, shape, queries):
        raise ValueError(f"cells of shape {list(cells.keys.shape)} are not this model's {list(shape)}")
    if not count:
        return
    positions, token_ids = torch.tensor(cells.positions), torch.tensor(cells.token_ids)
    missing = ~torch.isin(positions, store.order()[0])
    if bool(missing.any()):
        store.allocate(positions[missing], token_ids[missing])
    slots = store.find(cells.positions)
    store.token[slots] = token_ids
    store.forget(slots)
    store.write(compact(slots), Rows(*(_layers(part) for part in (cells.keys, cells.values, cells.queries))))


def _stacked(rows: list[Tensor]) -> Tensor:
    """[layers, heads, cells, head_dim], on the device of the first layer."""
    return torch.cat([layer.to(rows[0].device) for layer in rows])


def _layers(stacked: Tensor | None) -> list[Tensor]:
    return [] if stacked is None else list(torch.split(stacked, 1))
