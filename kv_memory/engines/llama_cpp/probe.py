"""Detection of how a model's cells look in a context, by running one token, or why the model is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from kv_memory.engines.llama_cpp.context import WORK, Context
from kv_memory.engines.llama_cpp.model import INSTEAD, Model
from kv_memory.engines.llama_cpp.rotation import Heads, Layer, measured
from kv_memory.engines.llama_cpp.rows import TYPES, State, UnknownStateError
from kv_memory.engines.llama_cpp.watch import Attention, Notes, Watch, attention_of, rows_of, stored_keys
from kv_memory.errors import UnsupportedModelError

_TOKEN = 0
_FARTHEST = 4096
"""Most positions that frequencies are measured over; more would not make them better."""


@dataclass(frozen=True)
class Probe:
    """Results of probing a model in its context."""

    layers: tuple[Layer | None, ...]
    """The cells of each layer; None for one that has none of its own."""
    attention: dict[int, Attention]
    """Attention of each layer; empty where what the model computes is not understood."""
    dtype: torch.dtype
    """Type of all rows."""

    @property
    def latent(self) -> bool:
        """Return whether K and V are kept compressed."""
        return any(layer is not None and not layer.value_dim for layer in self.layers)

    @property
    def unproven(self) -> str:
        """Return why few recomputed tokens may do little in this model; see Engine.unproven."""
        return "its K and V are kept compressed (latent attention)" if self.latent else ""

    def ruled_out(self, probed: tuple[int, ...]) -> dict[str, str]:
        """Return the capabilities that an engine with these probe layers lacks, each with the reason."""
        reasons = {"ahead": "llama.cpp shows a token nothing that comes after it"}
        if any(layer is not None and layer.rotation is None for layer in self.layers):
            reasons["shift"] = "its keys cannot be moved, since they do not turn with the position alone"
        if self.latent:
            # NOTE: nor does it say so: the products with the matrices before K and V are made without the adapter.
            reasons["adapters"] = "llama.cpp leaves an adapter of latent attention out"
        if not self.attention:
            reasons["deviation"] = "how the model attends is not understood, so that no pass can be stopped at a layer"
        if not probed:
            why = "construct it with probe_layers" if self.attention else "how the model attends is not understood"
            reasons["influence"] = f"it keeps no queries ({why})"
        return reasons


def probe(context: Context, watch: Watch, positions: int) -> Probe:
    """Run a lone token in an empty context, which is then told how its states look. Raises UnsupportedModelError."""
    model = context.model
    try:
        context.layout = _first_state(context).layout()
    except UnknownStateError as error:
        raise _unreadable(model, str(error)) from error
    attention, keys = _watched(context, watch)
    tables = _places(_alone(context, 1), keys)
    if tables is None:
        raise _unreadable(model, "which rows are of which layer is not seen")
    attention = _understood(context, watch, attention, tables)
    alone = cache(lambda position: _alone(context, position))
    dtype = TYPES[context.layout.kind]
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    widths = [widths for part in context.layout.parts for widths in part]
    # NOTE: layers without rows of their own are None from here on; no such model has been tried.
    borrowing = next((index for index in attention if index not in tables), None)
    if borrowing is not None:
        raise UnsupportedModelError(
            f"Layer {borrowing} of this {model.architecture} model uses the K and V of another one, which has not been "
            "tried with GGUF files; load its transformers directory."
        )
    layers: list[Layer | None] = []
    for index in range(max([*tables, *attention]) + 1):
        table = tables.get(index)
        if table is None:
            layers.append(None)
            continue
        width, value_width = widths[table]
        kv_heads = attention[index].kv_heads if attention else model.kv_heads
        if not kv_heads or width % kv_heads or value_width % kv_heads:
            raise _unreadable(model, "their heads are not even")
        windowed = table >= len(context.layout.parts[0])
        heads = Heads(width // kv_heads, _rotary(model, width // kv_heads, windowed), neighbours=model.rope_type == 0)
        moved = (alone(0).tables[table].keys != alone(1).tables[table].keys).view(kv_heads, -1).any(0).nonzero()
        if len(moved) and int(moved[0]) >= heads.rotary:
            heads = replace(heads, before=heads.head_dim - heads.rotary)

        def keys_at(position: int, table: int = table, heads: Heads = heads) -> Tensor:
            return heads.unpack(alone(position).tables[table].keys)[0]

        rotation = measured(keys_at, heads, min(positions, _FARTHEST) - 1, tolerance)
        layers.append(Layer(table, heads, kv_heads, value_width // kv_heads, rotation, windowed))
    return Probe(tuple(layers), attention, dtype)


def _unreadable(model: Model, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The cells of this {model.architecture} model cannot be read and written ({reason}); {INSTEAD}."
    )


def _rotary(model: Model, head_dim: int, windowed: bool) -> int:
    """Return how many numbers of a key turn with the position."""
    if model.rope_type < 0:
        return 0
    rotary = model.number("rope.dimension_count", head_dim)
    return min(model.number("rope.dimension_count_swa", rotary) if windowed else rotary, head_dim)


def _first_state(context: Context) -> State:
    with context.cleared(WORK):
        context.decode(WORK, [_TOKEN], 0, 0)
        data = context.read(WORK)
    return State.parse(data, 2 if context.model.window else 1)


def _alone(context: Context, position: int) -> State:
    """Return the cell of a token that sees itself alone, at a position."""
    with context.cleared(WORK):
        context.decode(WORK, [_TOKEN], position, 0)
        return context.parse(context.read(WORK))


def _watched(context: Context, watch: Watch) -> tuple[dict[int, Attention], dict[int, Tensor]]:
    """Watch a lone token at position 1: how the layers attend, and the keys [numbers] that each writes."""
    notes: Notes = []
    with context.cleared(WORK):
        watch.notes = notes
        try:
            context.decode(WORK, [_TOKEN], 0, 0)
        finally:
            watch.notes = None
        found, stored = attention_of(notes), stored_keys(notes)
    seen = _seen(context, watch, lambda: watch.want({key: ("keys", layer, None) for layer, key in stored.items()}))
    return found, {layer: rows.flatten() for (_, layer), rows in seen.items()}


def _places(state: State, keys: dict[int, Tensor]) -> dict[int, int] | None:
    """Find the place in a state of each layer that writes these keys; None where one is not found.

    A state of one part has the layers in their order.
    """
    if len(state.parts) == 1:
        return {layer: layer for layer in range(len(state.tables))}
    found: dict[int, int] = {}
    table = 0
    for part in state.parts:
        before = -1  # layers of a part are ascending
        for rows in part:
            layer = next((i for i in sorted(keys) if i > before and i not in found and _same(keys[i], rows.keys)), None)
            if layer is None:
                return None
            found[layer], before, table = table, layer, table + 1
    return found if len(found) == len(keys) else None


def _understood(
    context: Context, watch: Watch, found: dict[int, Attention], tables: dict[int, int]
) -> dict[int, Attention]:
    """Return how the layers attend; empty unless all layers are there, and watching sees their queries and keys."""
    model = context.model
    layers = model.number("block_count", 0) - model.number("nextn_predict_layers", 0)
    if sorted(found) != list(range(layers)) or {one.cells_of for one in found.values()} != set(tables):
        return {}
    seen = _seen(context, watch, lambda: watch.want(rows_of(found)))
    for layer, one in found.items():
        heads = {"queries": one.heads} | ({"keys": one.kv_heads} if one.cells_of == layer else {})
        for kind, count in heads.items():
            rows = seen.get((kind, layer))
            if rows is None or rows.shape != (1, count, one.head_dim):
                return {}
    return found


def _seen(context: Context, watch: Watch, want: Callable[[], None]) -> dict[tuple[str, int], Tensor]:
    """Return what watching sees of a lone token at position 1."""
    with context.cleared(WORK):
        want()
        try:
            context.decode(WORK, [_TOKEN], 1, 0)
            return watch.take()
        finally:
            watch.want({})


def _same(seen: Tensor, written: Tensor) -> bool:
    written = written.float().flatten()
    return seen.shape == written.shape and torch.allclose(seen, written, rtol=2e-2, atol=1e-3)
