"""Preallocated storage for the cells of one sequence.

This module knows slots (where a row is kept) and positions (the place of a token in the sequence), not models. The slot
of a removed cell is used for a later one, so that slots need not be in the order of positions: masks compare positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_memory.engines.origins import Origins
from kv_memory.engines.reach import WHOLE, Reach
from kv_memory.engines.window_rows import EMPTY, WindowRows

Slots = slice | Tensor
"""Indices of cells in the store: a slice where they are contiguous (written without an index), else int64 [cells]."""

FIRST_CAPACITY = 256


@dataclass(frozen=True)
class LayerShape:
    """Shape of what one layer keeps of a token, and how its tokens see each other."""

    kv_heads: int
    """Number of heads that have K and V; 0 where the layer uses those of another one."""
    key_dim: int
    value_dim: int
    """Width of V; 0 where it is kept elsewhere, and the store's keys serve for scores alone."""
    heads: int
    """Number of query heads."""
    query_dim: int
    device: torch.device
    reach: Reach = WHOLE
    sinks: Tensor | None = field(default=None, compare=False)
    """Logits that take part in the softmax of each query head and stand for no cell (gpt-oss): [heads]."""
    expand: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, compare=False)
    """Function from the two rows that are kept to the keys that queries meet (latent attention): [1, heads, cells,
    query_dim]; None where the first of the two is the key."""


@dataclass(frozen=True)
class CellLayout:
    """Shapes and type of a model's cells."""

    layers: tuple[LayerShape, ...]
    dtype: torch.dtype
    probe_layers: tuple[int, ...]
    """Layers whose post-RoPE queries are kept as well."""
    editable: int | None = None
    """Number of last positions that layers with a window keep cells for, beyond the window, so that they can be edited;
    None: of all."""

    @property
    def window(self) -> int:
        """Return the farthest that a token sees in the layers that do not see all; 0 where there are none."""
        return max((layer.reach.window or layer.reach.chunk or 0 for layer in self.layers), default=0)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Return the device of each layer."""
        return tuple(layer.device for layer in self.layers)

    @property
    def probe_memory(self) -> float:
        """Return the memory of one probe layer's queries, the mean over those kept, as a share of K and V of all
        layers."""
        if not self.probe_layers:
            return 0.0
        queries = sum(self.layers[i].heads * self.layers[i].query_dim for i in self.probe_layers)
        return (
            queries
            / len(self.probe_layers)
            / sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)
        )


class CellStore:
    """The cells of one sequence: K and V [1, kv_heads, capacity, width] a layer, and the probe layers' queries.

    Tensors grow by doubling, at most to `limit` cells; decoding never copies them. Rows that hold no cell are zero:
    masked attention multiplies them by 0, which must not meet an inf, and no erased content stays in memory.
    """

    @torch.inference_mode(False)  # NOTE: tensors made in a caller's inference mode cannot be written outside of it
    def __init__(self, layout: CellLayout, limit: int) -> None:
        self.layout = layout
        self.limit = limit
        self.keys = [_rows(layout, layer.kv_heads, layer.key_dim, layer.device) for layer in layout.layers]
        self.values = [_rows(layout, layer.kv_heads, layer.value_dim, layer.device) for layer in layout.layers]
        probed = [layout.layers[i] for i in layout.probe_layers]
        self.queries = [_rows(layout, layer.heads, layer.query_dim, layer.device) for layer in probed]
        self.position = torch.full((0,), EMPTY)
        self.token = torch.zeros(0, dtype=torch.int64)
        self.used = 0
        """One past the last slot that holds a cell."""
        self.log_normalisers: dict[int, Tensor] = {}
        """Log-normalisers of each slot's attention over all cells, by probe layer: float32 [heads, slots], NaN where
        not computed yet. Every change of the cells discards them (attention_mass.py)."""
        self.origins = Origins()
        """Rows of moved cells that turn with the position, as they were before their first move. Whoever writes other
        rows into a cell has to `forget` it, so that no later move brings the earlier rows back."""
        self.held_from = 0
        """Position from which layers with a window hold all cells."""
        self._windows = WindowRows() if layout.editable is not None and layout.window else None
        layers = layout.layers if self._windows is not None else ()
        self._windowed = [i for i, layer in enumerate(layers) if not layer.reach.whole]
        """Layers whose rows are given back."""
        self._order: tuple[Tensor, Tensor] | None = None

    def at(self, layer: int, slots: Slots) -> Slots:
        """Return where the cells of these slots are in a layer's tensors. Raises ValueError for one that was given
        back."""
        if self._windows is None or self.layout.layers[layer].reach.whole:
            return slots
        return compact(self._windows.rows(torch.arange(self.used)[slots] if isinstance(slots, slice) else slots))

    def held(self, layer: int) -> Tensor:
        """Return the positions of the rows in use of a layer's tensors, EMPTY for one that is free: int64 [rows]."""
        if self._windows is None or self.layout.layers[layer].reach.whole:
            return self.position[: self.used]
        return self._windows.position[: self._windows.used]

    def give_back(self) -> None:
        """Free the rows that layers with a window keep of cells that are farther from the end than is `editable`."""
        if self._windows is None or self.layout.editable is None:
            return
        end = self.next_position - self.layout.window - self.layout.editable
        if end > self.held_from:
            self._wipe_windows(self.between(0, end))
            self.held_from = end

    @property
    def editable_from(self) -> int:
        """Return the first position whose token can be run again: all that it sees is held."""
        return self.held_from and self.held_from + self.layout.window

    def _wipe_windows(self, slots: Tensor) -> None:
        if self._windows is None:
            return
        rows = self._windows.give_back(slots)
        for layer in self._windowed:
            for part in (self.keys[layer], self.values[layer]):
                part[:, :, rows.to(part.device)] = 0

    def order(self) -> tuple[Tensor, Tensor]:
        """Return the positions of the visible cells, ascending, and their slots: two int64 [cells] on the CPU."""
        if self._order is None:
            positions, slots = self.position[: self.used].sort()
            count = int(torch.searchsorted(positions, EMPTY))
            self._order = positions[:count], slots[:count]
        return self._order

    @property
    def next_position(self) -> int:
        """Return the position after the last cell's, 0 when empty."""
        positions, _ = self.order()
        return int(positions[-1]) + 1 if len(positions) else 0

    def find(self, positions: Sequence[int]) -> Tensor:
        """Return the slots of these positions, in their order. Raises ValueError for a position that holds no cell."""
        wanted = torch.tensor(list(positions), dtype=torch.int64)
        held, slots = self.order()
        at = torch.searchsorted(held, wanted).clamp(max=max(len(held) - 1, 0))
        missing = wanted if not len(held) else wanted[held[at] != wanted]
        if len(missing):
            raise ValueError(f"no cell at position {int(missing[0])}")
        return slots[at]

    def between(self, start: int, end: int = EMPTY) -> Tensor:
        """Return the slots of the cells at positions [start, end), positions ascending."""
        positions, slots = self.order()
        return slots[(positions >= start) & (positions < end)]

    @torch.inference_mode(False)
    def reserve(self, cells: int) -> None:
        """Make room for this many further cells."""
        needed, capacity = self.used + cells, len(self.position)
        if needed <= capacity:
            return
        capacity = max(needed, min(max(2 * capacity, FIRST_CAPACITY), self.limit))
        # One tensor at a time: the peak is one layer's copy, and growth that was interrupted can be repeated.
        for rows in (self.keys, self.values, self.queries):
            for i, old in enumerate(rows):
                if rows is self.queries or i not in self._windowed:
                    rows[i] = _grown(old, capacity)
        token = torch.zeros(capacity, dtype=torch.int64)
        token[: self.used] = self.token[: self.used]
        position = torch.full((capacity,), EMPTY)
        position[: self.used] = self.position[: self.used]
        self.token, self.position = token, position

    def allocate(self, positions: Tensor, tokens: Tensor) -> Slots:
        """Reserve slots for new cells at these positions (int64 [cells], CPU); the caller writes their rows next."""
        count = len(positions)
        free = (self.position[: self.used] == EMPTY).nonzero()[:count, 0]
        fresh = count - len(free)
        self.reserve(fresh)
        appended = torch.arange(self.used, self.used + fresh)
        slots = compact(torch.cat([free, appended]) if len(free) else appended)
        self._moved()
        self.position[slots] = positions
        self.token[slots] = tokens
        self.used += fresh
        self._take_windows(torch.arange(self.used)[slots], positions)
        return slots

    @torch.inference_mode(False)
    def _take_windows(self, slots: Tensor, positions: Tensor) -> None:
        """Take rows of the layers with a window for new cells."""
        if self._windows is None:
            return
        self._windows.take(slots, positions)
        capacity = len(self._windows.position)
        for layer in self._windowed:
            for rows in (self.keys, self.values):
                rows[layer] = _grown(rows[layer], capacity)

    def release(self, slots: Tensor) -> None:
        """Remove these cells and wipe their rows."""
        where = compact(slots)
        self._moved()
        self.forget(slots)
        self._wipe_windows(slots)
        self.position[where] = EMPTY
        self.token[where] = 0
        held = (self.position[: self.used] != EMPTY).nonzero()
        self.used = int(held[-1]) + 1 if len(held) else 0
        whole = [i for i in range(len(self.keys)) if i not in self._windowed]
        for rows in (*(part[i] for part in (self.keys, self.values) for i in whole), *self.queries):
            rows[:, :, on_device(where, rows.device)] = 0

    def put(self, layer: int, slots: Slots, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write rows [1, kv_heads, cells, width]; return K and V of all slots in use, as views."""
        where, used = on_device(self.at(layer, slots), keys.device), len(self.held(layer))
        self.log_normalisers.pop(layer, None)
        self.keys[layer][:, :, where] = keys
        self.values[layer][:, :, where] = values
        return self.keys[layer][:, :, :used], self.values[layer][:, :, :used]

    def met_keys(self, layer: int, slots: Slots) -> Tensor:
        """Return the keys of these slots as the layer's queries meet them: [1, heads, cells, query_dim], one head for
        each group of queries."""
        expand = self.layout.layers[layer].expand
        where = on_device(self.at(layer, slots), self.keys[layer].device)
        keys = self.keys[layer][:, :, where]
        return keys if expand is None else expand(keys, self.values[layer][:, :, where])

    def put_keys(self, layer: int, slots: Slots, keys: Tensor) -> None:
        """Write the keys [1, kv_heads, cells, head_dim] of a layer alone."""
        self.log_normalisers.pop(layer, None)
        self.keys[layer][:, :, on_device(slots, keys.device)] = keys

    def put_queries(self, layer: int, slots: Slots, queries: Tensor) -> None:
        """Write the queries [1, heads, cells, head_dim] of a probe layer."""
        self.log_normalisers.pop(layer, None)
        self.queries[self.layout.probe_layers.index(layer)][:, :, on_device(slots, queries.device)] = queries

    def read(self, slots: Slots, below: int | None = None) -> Rows:
        """Copy the rows of these slots, of all layers; with `below`, of the layers before it, without queries."""
        return Rows(
            [_taken(rows, self.at(layer, slots)) for layer, rows in enumerate(self.keys[:below])],
            [_taken(rows, self.at(layer, slots)) for layer, rows in enumerate(self.values[:below])],
            [_taken(rows, slots) for rows in self.queries] if below is None else [],
        )

    def write(self, slots: Slots, rows: Rows) -> None:
        """Put rows into these slots, in the layers that `rows` has, but for those that a layer has given back."""
        devices = self.layout.devices
        known = torch.arange(self.used)[slots]
        held = None if self._windows is None else self._windows.holds(known)
        for layer, (keys, values) in enumerate(zip(rows.keys, rows.values, strict=True)):
            if held is None or layer not in self._windowed:
                self.put(layer, slots, keys.to(devices[layer]), values.to(devices[layer]))
            else:
                kept = (part[:, :, held.to(part.device)].to(devices[layer]) for part in (keys, values))
                self.put(layer, known[held], *kept)
        for layer, queries in zip(self.layout.probe_layers, rows.queries, strict=False):
            self.put_queries(layer, slots, queries.to(devices[layer]))

    def move(self, slots: Tensor, delta: int, origins: Origins) -> None:
        """Move these cells by `delta` positions. The caller rotated their keys, from what `origins` says now."""
        self._moved()
        self.origins = origins
        self.position[slots] += delta
        if self._windows is not None:
            self._windows.move(slots, delta)

    def forget(self, slots: Tensor) -> None:
        """Let the rows that these cells have from now on be what their next move turns."""
        self.origins = self.origins.without(slots)

    def _moved(self) -> None:
        self._order = None
        self.log_normalisers.clear()

    def copy(self, end: int) -> CellStore:
        """Copy the cells at positions below `end` to a store of its own, in contiguous slots."""
        slots = self.between(0, end)
        other = CellStore(self.layout, self.limit)
        new, old = other.allocate(self.position[slots], self.token[slots]), compact(slots)
        for layer in range(len(self.keys)):
            if layer not in self._windowed:
                _copy(self.keys[layer], old, other.keys[layer], new)
                _copy(self.values[layer], old, other.values[layer], new)
        for queries, copies in zip(self.queries, other.queries, strict=True):
            _copy(queries, old, copies, new)
        self._copy_windows(slots, other, new)
        other.origins = self.origins.copied(slots)
        return other

    def _copy_windows(self, slots: Tensor, other: CellStore, new: Slots) -> None:
        """Copy what layers with a window hold of these slots to those of another store."""
        if self._windows is None:
            return
        there, held = torch.arange(other.used)[new], self._windows.holds(slots)
        other._wipe_windows(there[~held])
        for layer in self._windowed:
            where, to = self.at(layer, slots[held]), other.at(layer, there[held])
            _copy(self.keys[layer], where, other.keys[layer], to)
            _copy(self.values[layer], where, other.values[layer], to)
        other.held_from = self.held_from


@dataclass(frozen=True)
class Rows:
    """Copies of the rows of some slots: [1, heads, cells, width] for each layer (queries: for each probe layer)."""

    keys: list[Tensor]
    values: list[Tensor]
    queries: list[Tensor]


def compact(slots: Tensor) -> Slots:
    """Return the same slots as a slice where they are contiguous."""
    count = len(slots)
    if count and int(slots[-1]) - int(slots[0]) + 1 == count and bool((slots.diff() == 1).all()):
        return slice(int(slots[0]), int(slots[0]) + count)
    return slots


def on_device(slots: Slots, device: torch.device) -> Slots:
    """Return the slots as an index for tensors on this device."""
    return slots if isinstance(slots, slice) else slots.to(device)


def _rows(layout: CellLayout, heads: int, width: int, device: torch.device) -> Tensor:
    return torch.zeros(1, heads, 0, width, dtype=layout.dtype, device=device)


def _grown(rows: Tensor, capacity: int) -> Tensor:
    if rows.shape[2] >= capacity:
        return rows
    grown = rows.new_zeros(1, rows.shape[1], capacity, rows.shape[3])
    grown[:, :, : rows.shape[2]] = rows
    return grown


def _copy(rows: Tensor, old: Slots, copies: Tensor, new: Slots) -> None:
    copies[:, :, on_device(new, copies.device)] = rows[:, :, on_device(old, rows.device)]


def _taken(rows: Tensor, slots: Slots) -> Tensor:
    return rows[:, :, slots].clone() if isinstance(slots, slice) else rows[:, :, slots.to(rows.device)]
