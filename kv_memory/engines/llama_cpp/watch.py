"""Callback into llama.cpp's passes: it sees the probe layers' queries and keys, and can end a pass early.

llama.cpp asks a callback for each tensor of a pass whether it wants to see it, and computes up to there. Which tensors
hold a layer's queries is not taken from a list of models but followed in the graph of one pass: from the attention
scores back to what they are made of. Where that leads to nothing known, there is no `influence` and no `deviation`.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import string_at
from dataclasses import dataclass, field

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
    """Tensors and scaling of one layer's attention, as one pass showed them."""

    queries: tuple[bytes, int]
    """Name and operation of the tensor that holds the post-RoPE queries."""
    keys: tuple[bytes, int]
    stored: tuple[bytes, int]
    """Name and operation of the tensor whose computation completes K and V in the cache."""
    scaling: float


@dataclass
class Watch:
    """Callback that sees the tensors it was told to; none at first."""

    wanted: dict[tuple[bytes, int], tuple[str, int]] = field(default_factory=dict)
    """Tensors to keep, by name and operation: whether each holds queries or keys, and of which layer."""
    seen: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    """Tensors kept, [tokens, heads, head_dim] of each pass, by kind and layer."""
    notes: list[tuple[bytes, int, int]] | None = None
    """Notes of each tensor's name, operation and address; None unless they are wanted."""
    names: frozenset[bytes] = frozenset()
    _stop_at: tuple[bytes, int] | None = None

    def want(self, layers: dict[int, Attention]) -> None:
        """Keep the queries and keys of these layers from now on."""
        self.wanted = {attention.queries: ("queries", layer) for layer, attention in layers.items()}
        self.wanted |= {attention.keys: ("keys", layer) for layer, attention in layers.items()}
        self.names = frozenset(name for name, _ in self.wanted)

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
        """Return what was seen since the last call: [tokens, heads, head_dim] by kind and layer."""
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
            self.seen.setdefault(self.wanted[key], []).append(_read(tensor))
        return key != self._stop_at


def attention_of(notes: list[tuple[bytes, int, int]]) -> dict[int, Attention]:
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
        query, cache = _origin(scores.query), _origin(scores.keys)
        written = [_origin(store.source[0]) for store in stores if store.view_of == ctypes.addressof(cache)]
        if not written:
            continue  # some other softmax, such as that over experts
        layer = _layer(bytes(query.name))
        if scores.changed or layer is None or layer in found or len(written) > 1:
            return {}
        found[layer] = Attention(_key(query), _key(written[0]), _key(stores[-1]), scores.scaling)
    return found


@dataclass(frozen=True)
class _Scores:
    query: int | None
    keys: int | None
    scaling: float
    changed: bool
    """Whether something other than scaling is done to the scores: a bias, a cap, sinks."""


def _scores(node: _Tensor, nodes: dict[int, _Tensor]) -> _Scores | None:
    """Return the attention scores that this node takes the softmax of; None where it takes none."""
    scale, bias, cap = struct.unpack("3f", bytes(node.parameters)[:12])
    kind, source = _op_name(node.op), node.source
    if kind == "FLASH_ATTN_EXT":
        return _Scores(source[0], source[1], scale, bool(bias or cap or source[4]))
    product = nodes.get(source[0] or 0)
    if kind != "SOFT_MAX" or product is None or _op_name(product.op) != "MUL_MAT":
        return None
    return _Scores(product.source[1], product.source[0], scale, bool(bias or source[2]))


def _origin(address: int | None) -> _Tensor:
    """Return the tensor that this one is a view of, or this one."""
    tensor = _Tensor.from_address(address or 0)
    return _Tensor.from_address(tensor.view_of) if tensor.view_of else tensor


def _key(tensor: _Tensor) -> tuple[bytes, int]:
    return bytes(tensor.name), int(tensor.op)


def _layer(name: bytes) -> int | None:
    number = re.search(rb"-(\d+)$", name)
    return int(number[1]) if number else None


def _op_name(op: int) -> str:
    library = ggml()
    return library.ggml_op_name(op).decode() if library else ""


def _read(address: int) -> Tensor:
    """Copy a float32 tensor: [tokens, heads, head_dim]."""
    tensor, library = _Tensor.from_address(address), ggml()
    assert library is not None and tensor.type == _FLOAT32, "checked by the probe"
    head_dim, heads, tokens, _ = tensor.size
    found = np.empty((tokens, heads, head_dim), np.float32)
    library.ggml_backend_tensor_get(address, found.ctypes.data, 0, found.nbytes)
    return torch.from_numpy(found)
