"""Detection of how a model's cells look in a context, by running one token, or why the model is refused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_memory.engines.llama_cpp.context import WORK, Context
from kv_memory.engines.llama_cpp.model import INSTEAD
from kv_memory.engines.llama_cpp.rotation import Heads, Rotation, measured
from kv_memory.engines.llama_cpp.rows import TYPES, Layout, State, UnknownStateError
from kv_memory.engines.llama_cpp.watch import Attention, Watch, attention_of
from kv_memory.errors import UnsupportedModelError

_TOKEN = 0
_FARTHEST = 4096
"""Most positions that frequencies are measured over; more would not make them better."""


@dataclass(frozen=True)
class Probe:
    """Results of probing a model in its context."""

    layout: Layout
    heads: Heads
    rotation: Rotation | None
    """Rotation of the keys; None where keys do not turn with the position, or do more than that."""
    attention: dict[int, Attention]
    """Attention of each layer; empty where what the model computes is not understood."""

    def ruled_out(self, probed: tuple[int, ...]) -> dict[str, str]:
        """Return the capabilities that an engine with these probe layers lacks, each with the reason."""
        reasons = {"ahead": "llama.cpp shows a token nothing that comes after it"}
        if self.rotation is None:
            reasons["shift"] = "its keys cannot be moved, since they do not turn with the position alone"
        if not self.attention:
            reasons["deviation"] = "how the model attends is not understood, so that no pass can be stopped at a layer"
        if not probed:
            why = "construct it with probe_layers" if self.attention else "how the model attends is not understood"
            reasons["influence"] = f"it keeps no queries ({why})"
        return reasons


def probe(context: Context, watch: Watch, positions: int) -> Probe:
    """Run a lone token in an empty context. Raises UnsupportedModelError."""
    model = context.model
    try:
        state = _alone(context, 0)
        layout = state.layout()
    except UnknownStateError as error:
        reason = "it keeps those of layers with a sliding window apart" if model.window else str(error)
        raise UnsupportedModelError(
            f"The cells of this {model.architecture} model cannot be read and written ({reason}); {INSTEAD}."
        ) from error
    if layout.width % model.kv_heads:
        raise UnsupportedModelError(f"The cells of this {model.architecture} model have no even heads; {INSTEAD}.")
    head_dim = layout.width // model.kv_heads
    rotary = model.number("rope.dimension_count", head_dim) if model.rope_type >= 0 else 0
    heads = Heads(head_dim, rotary, neighbours=model.rope_type == 0)

    def keys_at(position: int) -> Tensor:
        return torch.stack([heads.unpack(rows)[0] for rows in _alone(context, position).keys])

    tolerance = 1e-4 if TYPES[layout.kind] == torch.float32 else 2e-2
    rotation = measured(keys_at, heads, min(positions, _FARTHEST) - 1, tolerance)
    return Probe(layout, heads, rotation, _attention(context, watch, heads))


def _alone(context: Context, position: int) -> State:
    """Return the cell of a token that sees itself alone, at a position."""
    with context.cleared(WORK):
        context.decode(WORK, [_TOKEN], position, 0)
        return State.parse(context.read(WORK))


def _attention(context: Context, watch: Watch, heads: Heads) -> dict[int, Attention]:
    """Find how the layers attend; empty unless watching shows it and sees the rows that were written."""
    with context.cleared(WORK):
        notes: list[tuple[bytes, int, int]] = []
        watch.notes = notes
        try:
            context.decode(WORK, [_TOKEN], 0, 0)
        finally:
            watch.notes = None
        found = attention_of(notes)
    rows = context.model.number("block_count", 0)
    if sorted(found) != list(range(rows)):
        return {}
    with context.cleared(WORK):
        watch.want(found)
        try:
            context.decode(WORK, [_TOKEN], 1, 0)
            state, seen = State.parse(context.read(WORK)), watch.take()
        finally:
            watch.want({})
    for layer in found:
        queries, keys = seen.get(("queries", layer)), seen.get(("keys", layer))
        written = state.keys[layer].float().view(1, -1, heads.head_dim)
        if queries is None or queries.shape != (1, context.model.heads, heads.head_dim):
            return {}
        if keys is None or keys.shape != written.shape or not torch.allclose(keys, written, rtol=2e-2, atol=1e-3):
            return {}
    return found
