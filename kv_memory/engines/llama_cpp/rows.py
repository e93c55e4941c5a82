"""The state of a sequence as llama.cpp writes it: positions, and the rows of K and V, to read and to edit in place.

Little-endian: magic, sequence, and then a part for each cache of the model: layers with a sliding window have one of
their own, after that of the others. A part: streams (1), cells; for each cell position, sequences (1), sequence; then
whether V is transposed, layers; K and then V of each layer with type, row size and rows, or with V transposed type,
element size, row length and columns; no V where it is part of K (latent attention). Cells are in the order of the
cache, not of positions. There is no checksum: that a reader consumes exactly the given length is the test that the
format is the known one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAGIC = 0xAF143CD8
TYPES: dict[int, torch.dtype] = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Types whose rows can be read and written, by ggml's numbers."""


@dataclass(frozen=True)
class Layout:
    """Properties that all states of a model have in common."""

    transposed: bool
    kind: int
    """Type of all rows, as ggml's number."""
    parts: tuple[tuple[tuple[int, int], ...], ...]
    """Numbers in a row of K and in one of V (0: it has none), of each layer of each part."""

    def blank(self, positions: Sequence[int]) -> State:
        """Create a state of cells at these positions, with rows to be written."""
        said = [struct.pack("<Ii", MAGIC, 0)]
        for widths in self.parts:
            said += self._part(positions, widths)
        return State.parse(np.frombuffer(bytearray(b"".join(said)), np.uint8), len(self.parts))

    def windows_alone(self, position: int) -> NDArray[np.uint8]:
        """Return the data of a state of one cell that has rows in the last part alone."""
        return np.frombuffer(
            bytearray(b"".join([struct.pack("<Ii", MAGIC, 0), *self._part([position], self.parts[-1])])), np.uint8
        )

    def _part(self, positions: Sequence[int], widths: Sequence[tuple[int, int]]) -> list[bytes]:
        cells, size = len(positions), TYPES[self.kind].itemsize
        said = [struct.pack("<II", 1, cells), *(struct.pack("<iIi", p, 1, 0) for p in positions)]
        if not cells:
            return said
        said.append(struct.pack("<II", self.transposed, len(widths)))
        for keys, _ in widths:
            said += [struct.pack("<iQ", self.kind, keys * size), bytes(cells * keys * size)]
        for _, values in widths:
            if values:
                head = struct.pack("<iQ", self.kind, values * size)
                if self.transposed:
                    head = struct.pack("<iII", self.kind, size, values)
                said += [head, bytes(cells * values * size)]
        return said


class UnknownStateError(Exception):
    """Raised for a state that is not in the known format, or whose rows are quantised."""


@dataclass(frozen=True)
class Table:
    """The rows of one layer."""

    positions: NDArray[np.int32]
    """[cells], shared by the tables of a part."""
    keys: Tensor
    """[cells, row] in the dtype of the cache."""
    values: Tensor
    """[cells, row]; no numbers in a row where V is part of K."""

    def order(self) -> Tensor:
        """Return the indices of the cells in the order of their positions."""
        return torch.from_numpy(np.argsort(self.positions))


@dataclass(frozen=True)
class State:
    """Cells of one sequence. All else is views of `data`: what is written to them is in it."""

    data: NDArray[np.uint8]
    parts: tuple[tuple[Table, ...], ...]
    """The layers that have cells, as the state has them."""
    positions: tuple[NDArray[np.int32], ...]
    """[cells] of each part."""
    kind: int
    transposed: bool

    @property
    def tables(self) -> list[Table]:
        """Return the layers of all parts, one after the other."""
        return [table for part in self.parts for table in part]

    def layout(self) -> Layout:
        """Return the layout of a state with cells.

        Raises UnknownStateError where rows are not all of one type.
        """
        types = {rows.dtype for table in self.tables for rows in (table.keys, table.values)}
        if len(types) != 1:
            raise UnknownStateError("rows of several types")
        widths = (tuple((table.keys.shape[1], table.values.shape[1]) for table in part) for part in self.parts)
        return Layout(self.transposed, self.kind, tuple(widths))

    def move(self, delta: int) -> None:
        """Move all cells by `delta` positions; their rows stay as they are."""
        for part in self.positions:
            np.add(part, delta, out=part)

    @classmethod
    def parse(cls, data: NDArray[np.uint8], parts: int) -> State:
        """Parse a state of this many parts. Raises UnknownStateError."""
        reader = _Reader(data)
        magic, _ = reader.numbers("Ii")
        if magic != MAGIC:
            raise UnknownStateError("another format")
        read = [reader.part(last=part == parts - 1) for part in range(parts)]
        if reader.at != len(data):
            raise UnknownStateError("another length")
        held = [sorted(positions.tolist()) for positions, _ in read]
        if any(one != held[0] for one in held):
            raise UnknownStateError("layers with a window lack some cells")
        return cls(
            data,
            tuple(tuple(tables) for _, tables in read),
            tuple(positions for positions, _ in read),
            reader.kind,
            reader.transposed,
        )


def ordered(data: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Return a state with its cells in the order of their positions."""
    state = State.parse(data, len(layout.parts))
    if all(bool((np.diff(positions) > 0).all()) for positions in state.positions):
        return data
    return joined([state], layout)


def joined(states: Sequence[State], layout: Layout) -> NDArray[np.uint8]:
    """Return one state of the cells of all these, each in the order of its positions."""
    found = layout.blank([at for state in states for at in sorted(state.positions[0].tolist())])
    done = 0
    for state in states:
        end = done + len(state.positions[0])
        for old, new in zip(state.tables, found.tables, strict=False):  # a state without cells has no tables
            order = old.order()
            new.keys[done:end] = old.keys[order]
            new.values[done:end] = old.values[order]
        done = end
    return found.data


class _Reader:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self.at = 0
        self.kind = 0
        """Type of the rows read last, as ggml's number."""
        self.transposed = False

    def part(self, *, last: bool) -> tuple[NDArray[np.int32], list[Table]]:
        """Read the positions and the layers of one cache."""
        streams, cells = self.numbers("II")
        if streams != 1:
            raise UnknownStateError("another format")
        positions = self.array(np.dtype("<i4"), 3 * cells).reshape(cells, 3)[:, 0]
        if not cells:
            return positions, []
        transposed, layers = self.numbers("II")
        self.transposed = bool(transposed)
        keys = [self.rows(cells) for _ in range(layers)]
        if last and self.at == len(self._data):
            values = [rows[:, :0] for rows in keys]
        else:
            values = [self.columns(cells) if transposed else self.rows(cells) for _ in range(layers)]
        return positions, [Table(positions, *rows) for rows in zip(keys, values, strict=True)]

    def numbers(self, format: str) -> tuple[int, ...]:
        size = struct.calcsize(f"<{format}")
        if self.at + size > len(self._data):
            raise UnknownStateError("it ends too early")
        found = struct.unpack(f"<{format}", self._data[self.at : self.at + size].tobytes())
        self.at += size
        return found

    def array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        size = count * dtype.itemsize
        if self.at + size > len(self._data):
            raise UnknownStateError("it ends too early")
        found = self._data[self.at : self.at + size].view(dtype)
        self.at += size
        return found

    def rows(self, cells: int) -> Tensor:
        """Read rows: [cells, row]."""
        self.kind, row_bytes = self.numbers("iQ")
        dtype = _dtype(self.kind)
        return self._tensor(dtype, cells * row_bytes // dtype.itemsize).view(cells, -1)

    def columns(self, cells: int) -> Tensor:
        """Read transposed rows: [cells, row]."""
        self.kind, _, width = self.numbers("iII")
        return self._tensor(_dtype(self.kind), cells * width).view(width, cells).T

    def _tensor(self, dtype: torch.dtype, count: int) -> Tensor:
        # NOTE: through int16 or int32, since numpy has no bfloat16.
        plain = np.dtype("<i4") if dtype.itemsize == 4 else np.dtype("<i2")
        return torch.from_numpy(self.array(plain, count)).view(dtype)


def _dtype(kind: int) -> torch.dtype:
    if kind not in TYPES:
        raise UnknownStateError(f"rows of ggml type {kind}")
    return TYPES[kind]
