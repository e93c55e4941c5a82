"""Callback into llama.cpp's passes: it sees the probe layers' queries and keys, and can end a pass early.

llama.cpp asks a callback for each tensor of a pass whether it wants to see it, and computes up to there. Which tensors
hold a layer's queries is not taken from a list of models but followed in the graph of one pass: from the attention
scores back to what they are made of. Where that leads to nothing known, there is no `influence` and no `deviation`.
"""

from __future__ import annotations

import ctypes
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import string_at
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kv_memory.engines.llama_cpp.library import ggml

_FLOAT32 = 0
_SOURCES = 10


class _Tensor(ctypes.Structure):
    """Copy of ggml.h's struct ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("size", ctypes.c_int64 * 4),
        ("stride", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("parameters", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("source", ctypes.c_void_p * _SOURCES),
        ("view_of", ctypes.c_void_p),
        ("view_offset", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


_NAME, _OP = _Tensor.name.offset, _Tensor.op.offset


@dataclass(frozen=True)
class Attention:
    """Tensors, sizes and scaling of one layer's attention, as one pass showed them."""

    queries: tuple[bytes, int]
    """Name and operation of the tensor that holds the post-RoPE queries."""
    keys: tuple[bytes, int]
    stored: tuple[bytes, int]
    """Name and operation of the tensor whose computation completes K and V in the cache."""
    scaling: float
    heads: int
    kv_heads: int
    head_dim: int
    """Width of a query and of a key."""
    cells_of: int
    """Layer whose cells it reads: its own, but for layers that have none."""
    sinks: Tensor | None = field(default=None, compare=False)
    """Logits that take part in the softmax of each head and stand for no cell: float32 [heads]."""


Wanted = dict[tuple[bytes, int], tuple[Literal["queries", "keys"], int, tuple[int, int] | None]]
"""Tensors to keep, by name and operation: whether each holds queries or keys, of which layer, and the number and width
of its heads; None where that is not known, and the pass is of one token."""


def rows_of(layers: dict[int, Attention]) -> Wanted:
    """Return the tensors that hold the queries and keys of these layers."""
    wanted: Wanted = {}
    for layer, one in layers.items():
        wanted |= dict.fromkeys(_with_adapter(one.queries), ("queries", layer, (one.heads, one.head_dim)))
        if one.cells_of == layer:
            wanted |= dict.fromkeys(_with_adapter(one.keys), ("keys", layer, (one.kv_heads, one.head_dim)))
    return wanted


def _with_adapter(key: tuple[bytes, int]) -> list[tuple[bytes, int]]:
    """Return the tensor, and what has its name while an adapter is on: where keys do not turn with the position, the
    sum of the product and of what the adapter adds."""
    name, op = key
    if _op_name(op) != "MUL_MAT":
        return [key]
    return [key, *((name, other) for other in range(op) if _op_name(other) == "ADD")]


@dataclass
class Watch:
    """Callback that sees the tensors it was told to; none at first."""

    wanted: Wanted = field(default_factory=dict)
    seen: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    """Tensors kept, [tokens, heads, width] of each pass, by kind and layer."""
    notes: Notes | None = None
    """Notes of each tensor; None unless they are wanted."""
    names: frozenset[bytes] = frozenset()
    _stop_at: tuple[bytes, int] | None = None

    def want(self, wanted: Wanted) -> None:
        """Keep these tensors from now on."""
        self.wanted = wanted
        self.names = frozenset(name for name, _ in wanted)

    @contextmanager
    def stopping(self, attention: Attention) -> Iterator[None]:
        """End passes once K and V of this layer are written, and keep nothing of them."""
        names, self.names = self.names, frozenset((attention.stored[0],))
        self._stop_at = attention.stored
        try:
            yield
        finally:
            self.names, self._stop_at = names, None

    def take(self) -> dict[tuple[str, int], Tensor]:
        """Return what was seen since the last call: [tokens, heads, width] by kind and layer."""
        seen, self.seen = self.seen, {}
        return {key: torch.cat(parts) for key, parts in seen.items()}

    def __call__(self, tensor: int, asks: bool) -> bool:
        """Decide whether to see this tensor (`asks`), or keep it; llama.cpp calls this, and False then ends the
        pass."""
        name = string_at(tensor + _NAME)
        if name not in self.names and self.notes is None:
            return False  # the usual case, some hundred times a pass
        key = name, ctypes.c_int.from_address(tensor + _OP).value
        if self.notes is not None:
            if asks:
                self.notes.append((*key, tensor))
            return False
        if asks:
            return key in self.wanted or key == self._stop_at
        if key in self.wanted:
            kind, layer, heads = self.wanted[key]
            self.seen.setdefault((kind, layer), []).append(_read(tensor).view(-1, *(heads or (1, 1))))
        return key != self._stop_at


Notes = list[tuple[bytes, int, int]]
"""Name, operation and address of each tensor of a pass, in the order in which they are computed."""


def stored_keys(notes: Notes) -> dict[int, tuple[bytes, int]]:
    """Find the tensor that each layer with cells writes to the cache as its keys, from the tensors of a pass, while
    they are in memory: name and operation by layer."""
    found: dict[int, tuple[bytes, int]] = {}
    for _, _, address in notes:
        node = _Tensor.from_address(address)
        if _op_name(node.op) == "SET_ROWS" and node.view_of:
            named = re.fullmatch(rb"cache_k_l(\d+)", _origin(node.view_of).name)
            if named:
                found[int(named[1])] = _key(_origin(node.source[0]))
    return found


def attention_of(notes: Notes) -> dict[int, Attention]:
    """Find how each layer attends, from the tensors of a pass, while they are in memory; empty where that is not
    understood."""
    nodes = {address: _Tensor.from_address(address) for _, _, address in notes}
    found: dict[int, Attention] = {}
    stores: list[_Tensor] = []
    for node in nodes.values():  # in the order in which they are computed
        if _op_name(node.op) == "SET_ROWS":
            stores.append(node)
        scores = _scores(node, nodes)
        if scores is None:
            continue
        cache = _origin(scores.keys)
        query, scaling = _unscaled(_origin(scores.query), scores.scaling)
        written = [_origin(store.source[0]) for store in stores if store.view_of == ctypes.addressof(cache)]
        if not written:
            continue  # some other softmax, such as that over experts
        layer, cells_of = _layer(bytes(query.name)), _layer(bytes(cache.name))
        if scores.changed or layer is None or cells_of is None or layer in found or len(written) > 1:
            return {}
        # Both are seen as [head_dim, tokens, heads].
        sizes = _Tensor.from_address(scores.query or 0).size, _Tensor.from_address(scores.keys or 0).size
        found[layer] = Attention(
            queries=_key(query),
            keys=_key(written[0]),
            stored=_key(stores[-1]),
            scaling=scaling,
            heads=sizes[0][2],
            kv_heads=sizes[1][2],
            head_dim=sizes[0][0],
            cells_of=cells_of,
            sinks=_read(scores.sinks) if scores.sinks else None,
        )
    return found


@dataclass(frozen=True)
class _Scores:
    query: int | None
    keys: int | None
    scaling: float
    changed: bool
    """Whether something other than scaling is done to the scores: a bias or a cap."""
    sinks: int | None


def _scores(node: _Tensor, nodes: dict[int, _Tensor]) -> _Scores | None:
    """Return the attention scores that this node takes the softmax of; None where it takes none."""
    scale, bias, cap = struct.unpack("3f", bytes(node.parameters)[:12])
    kind, source = _op_name(node.op), node.source
    if kind == "FLASH_ATTN_EXT":
        return _Scores(source[0], source[1], scale, bool(bias or cap), source[4])
    product = nodes.get(source[0] or 0)
    if kind != "SOFT_MAX" or product is None or _op_name(product.op) != "MUL_MAT":
        return None
    return _Scores(product.source[1], product.source[0], scale, bool(bias), source[2])


def _unscaled(query: _Tensor, scaling: float) -> tuple[_Tensor, float]:
    """Return the queries before they are scaled, and the scaling with that in it.

    NOTE: Gemma scales its queries before the product; that tensor has a number for a name, which is not the same in
    each pass.
    """
    factor, offset = struct.unpack("2f", bytes(query.parameters)[:8])
    if _op_name(query.op) != "SCALE" or offset:
        return query, scaling
    return _origin(query.source[0]), scaling * factor


def _origin(address: int | None) -> _Tensor:
    """Return the tensor that this one is a view of, or this one."""
    tensor = _Tensor.from_address(address or 0)
    return _Tensor.from_address(tensor.view_of) if tensor.view_of else tensor


def _key(tensor: _Tensor) -> tuple[bytes, int]:
    return bytes(tensor.name), int(tensor.op)


def _layer(name: bytes) -> int | None:
    number = re.search(rb"(?:-|cache_k_l)(\d+)$", name)
    return int(number[1]) if number else None


def _op_name(op: int) -> str:
    library = ggml()
    return library.ggml_op_name(op).decode() if library else ""


def _read(address: int) -> Tensor:
    """Copy the numbers of a float32 tensor."""
    tensor, library = _Tensor.from_address(address), ggml()
    assert library is not None and tensor.type == _FLOAT32, "checked by the probe"
    found = np.empty(math.prod(tensor.size), np.float32)
    library.ggml_backend_tensor_get(address, found.ctypes.data, 0, found.nbytes)
    return torch.from_numpy(found)
