"""The state of a sequence as llama.cpp writes it: positions, and the rows of K and V, to read and to edit in place.

Little-endian: magic, sequence, streams (1), cells; for each cell position, sequences (1), sequence; then whether V is
transposed, layers; K and then V of each layer with type, row size and rows, or with V transposed type, element size,
row length and columns. Cells are in the order of the cache, not of positions. There is no checksum: that a reader
consumes exactly the given length is the test that the format is the known one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAGIC = 0xAF143CD8
FIRST_POSITION = slice(16, 20)
"""Bytes of the first cell's position."""
TYPES: dict[int, torch.dtype] = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Types whose rows can be read and written, by ggml's numbers."""


@dataclass(frozen=True)
class Layout:
    """Properties that all states of a model have in common."""

    transposed: bool
    kind: int
    """Type of all rows, as ggml's number."""
    layers: int
    width: int
    """Numbers in a row, of K as of V."""

    def blank(self, positions: Sequence[int]) -> State:
        """Create a state of cells at these positions, with rows to be written."""
        cells, size = len(positions), TYPES[self.kind].itemsize * self.width
        rows = bytes(cells * size)
        said = [struct.pack("<IiII", MAGIC, 0, 1, cells), *(struct.pack("<iIi", p, 1, 0) for p in positions)]
        if cells:
            said.append(struct.pack("<II", self.transposed, self.layers))
            said += [struct.pack("<iQ", self.kind, size), rows] * self.layers
            head = struct.pack("<iQ", self.kind, size)
            if self.transposed:
                head = struct.pack("<iII", self.kind, TYPES[self.kind].itemsize, self.width)
            said += [head, rows] * self.layers
        return State.parse(np.frombuffer(bytearray(b"".join(said)), np.uint8))


class UnknownStateError(Exception):
    """Raised for a state that is not in the known format, or whose rows are quantised."""


@dataclass
class State:
    """Cells of one sequence. `keys` and `values` are views of `data`: what is written to them is in it."""

    data: NDArray[np.uint8]
    keys: list[Tensor] = field(default_factory=list)
    """[cells, row] of each layer, in the dtype of the cache."""
    values: list[Tensor] = field(default_factory=list)
    """[cells, row] of each layer."""
    positions: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """[cells], a view of `data` too."""
    kind: int = 0
    transposed: bool = False

    def layout(self) -> Layout:
        """Return the layout of a state with cells.

        Raises UnknownStateError where rows are not all of one type and size.
        """
        sizes = {(rows.shape[1], rows.dtype) for rows in (*self.keys, *self.values)}
        if len(sizes) != 1:
            raise UnknownStateError(f"rows of several sizes, {sorted(width for width, _ in sizes)}")
        return Layout(self.transposed, self.kind, len(self.keys), self.keys[0].shape[1])

    @classmethod
    def parse(cls, data: NDArray[np.uint8]) -> State:
        """Parse a state. Raises UnknownStateError."""
        state = cls(data)
        reader = _Reader(data)
        magic, _, streams = reader.numbers("IiI")
        if magic != MAGIC or streams != 1:
            raise UnknownStateError("another format")
        (cells,) = reader.numbers("I")
        if cells:
            state.positions = reader.array(np.dtype("<i4"), 3 * cells).reshape(cells, 3)[:, 0]
            transposed, layers = reader.numbers("II")
            state.keys = [reader.rows(cells) for _ in range(layers)]
            state.values = [reader.columns(cells) if transposed else reader.rows(cells) for _ in range(layers)]
            state.kind, state.transposed = reader.kind, bool(transposed)
        if reader.at != len(data):
            raise UnknownStateError("another length")
        return state


def ordered(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a state with its cells in the order of their positions."""
    state = State.parse(data)
    if bool((np.diff(state.positions) > 0).all()):
        return data
    order = np.argsort(state.positions)
    sorted_ = state.layout().blank(state.positions[order].tolist())
    where = torch.from_numpy(order)
    for old, new in ((state.keys, sorted_.keys), (state.values, sorted_.values)):
        for rows, there in zip(old, new, strict=True):
            there[:] = rows[where]
    return sorted_.data


class _Reader:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self.at = 0
        self.kind = 0
        """Type of the rows read last, as ggml's number."""

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
