"""Detection of a model's cache layout by running one token: the layout, or a refusal that names what is in the way.

The model's own code is the only complete description of its cache, so two passes of a single token decide, rather than
a list of known architectures. A lone token attends only to itself, so that its keys at two positions differ by position
alone: they show whether keys can be moved (see rotary.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from kv_memory.engines.cells import CellLayout
from kv_memory.engines.transformers.forward import Forward, layer_of
from kv_memory.errors import ModelError, UnsupportedModelError

INSTEAD = "use a model with full attention in every layer, such as Qwen3, Qwen2.5, Llama 3 or Mistral without a window"
_SOFTMAX_CHANGES = ("softcap", "s_aux", "position_bias")


class LayoutProbe(Cache):  # type: ignore[misc]  # transformers is untyped
    """A cache for one pass of one token that notes what each layer does with it."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}
        """K and V of each layer, [1, kv_heads, 1, head_dim]."""
        self.modules: dict[int, nn.Module] = {}
        self.heads: dict[int, int] = {}
        self.scaling: dict[int, float] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Note K and V of a layer; the model's attention calls this."""
        self.rows[layer_idx] = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: nothing is cached."""
        return 0

    def record(self, module: nn.Module, query: Tensor, options: dict[str, Any]) -> None:
        """Note how a layer attends; the attention function calls this.

        Raises UnsupportedModelError where scores are changed by more than scaling, or tokens see later ones.
        """
        layer = layer_of(module)
        for name in _SOFTMAX_CHANGES:
            if options.get(name) is not None:
                raise UnsupportedModelError(f"Layer {layer} changes its attention scores ({name}); {INSTEAD}.")
        if not options.get("is_causal", getattr(module, "is_causal", True)):
            raise UnsupportedModelError(f"Layer {layer} is of an encoder: tokens see later ones; {INSTEAD}.")
        scaling = options.get("scaling")
        self.modules[layer] = module
        self.heads[layer] = query.shape[1]
        self.scaling[layer] = float(query.shape[-1] ** -0.5 if scaling is None else scaling)


def check_layer_types(config: Any) -> None:
    """Raise UnsupportedModelError where the config names a layer that is not full attention. Needs no weights."""
    text = config.get_text_config(decoder=True)
    types = getattr(text, "layer_types", None)
    if types is None:
        window = getattr(text, "sliding_window", None)
        kind = "sliding_attention" if window else "chunked_attention" if _chunked(text) else "full_attention"
        types = [kind] * text.num_hidden_layers
    for layer, kind in enumerate(types):
        if kind != "full_attention":
            raise UnsupportedModelError(
                f"Layer {layer} of this {text.model_type} model is of type {kind}, whose cache cannot be edited by the "
                f"cell; {INSTEAD}."
            )


def _chunked(config: Any) -> bool:
    return getattr(config, "attention_chunk_size", None) is not None


def run_probe(forward: Forward, position: int) -> LayoutProbe:
    """Run one token at this position. Raises UnsupportedModelError where a layer keeps no K and V row of its own."""
    probe = LayoutProbe()
    kind = forward.config.model_type
    try:
        forward(probe, torch.tensor([0]), torch.tensor([position]), None, 1)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UnsupportedModelError(
            f"This {kind} model does not run on an editable cache ({error}); {INSTEAD}."
        ) from error
    for layer in range(forward.config.num_hidden_layers):
        if layer not in probe.rows:
            raise UnsupportedModelError(f"Layer {layer} of this {kind} model keeps no K and V of its own; {INSTEAD}.")
        if layer not in probe.modules:
            raise UnsupportedModelError(
                f"Layer {layer} of this {kind} model computes attention in its own way, which an engine cannot mask; "
                f"{INSTEAD}."
            )
    return probe


def layout_of(probe: LayoutProbe, probe_layers: tuple[int, ...]) -> CellLayout:
    """Return the layout that the probe saw.

    Raises UnsupportedModelError where layers differ or K and V do.
    """
    first = probe.rows[0][0]
    for layer, (keys, values) in sorted(probe.rows.items()):
        if keys.shape != first.shape or values.shape != first.shape:
            raise UnsupportedModelError(
                f"Layer {layer} caches keys {list(keys.shape[1:])} and values {list(values.shape[1:])}, not the same "
                f"[kv_heads, tokens, head_dim] for both in every layer; {INSTEAD}."
            )
    return CellLayout(
        kv_heads=first.shape[1],
        head_dim=first.shape[3],
        heads=probe.heads[0],
        dtype=first.dtype,
        devices=tuple(probe.rows[layer][0].device for layer in sorted(probe.rows)),
        probe_layers=probe_layers,
    )


def context_limit(config: Any, wanted: int | None) -> int:
    """Return the longest sequence: what is wanted, else what the model can take. Raises ModelError beyond that.

    NOTE: LongRoPE ends at its original length: beyond it all frequencies change, and keys cached before would be wrong.
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    limit = int(text.max_position_embeddings)
    if rope.get("rope_type") == "longrope":
        limit = min(limit, int(rope["original_max_position_embeddings"]))
    if wanted is not None and not 1 <= wanted <= limit:
        raise ModelError(f"A context_length of this model is 1 to {limit:,} tokens, not {wanted:,}.")
    return wanted or limit
