"""Detection of a model's cache layout by running one token: the layout, or a refusal that names what is in the way.

The model's own code is the only complete description of its cache, so two passes of a single token decide, rather than
a list of known architectures. A lone token attends only to itself, so that its keys at two positions differ by position
alone: they show whether keys can be moved (see rotary.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from kv_memory.engines.cells import CellLayout, LayerShape
from kv_memory.engines.parts import ProbeLayers, chosen_layers
from kv_memory.engines.reach import Reach
from kv_memory.engines.transformers.forward import Forward, layer_of
from kv_memory.errors import ModelError, UnsupportedModelError

INSTEAD = (
    "use a model with full attention or sliding windows in every layer, such as Qwen3, Gemma 3, gpt-oss or Llama 3"
)
_SOFTMAX_CHANGES = ("softcap", "position_bias")
_WHOLE = ("full_attention", "attention")
_WINDOW = "sliding_attention"
_CHUNKED = "chunked_attention"


class LayoutProbe(Cache):  # type: ignore[misc]  # transformers is untyped
    """A cache for one pass of one token that notes what each layer does with it."""

    sinks = False
    """A lone token sees itself alone, so that its rows differ by the position and not by how its score was rounded."""

    def __init__(self, depth: int) -> None:
        super().__init__(layers=[])
        self.depth = depth
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}
        """The two rows that each layer keeps, K and V but for latent attention, [1, kv_heads, 1, width]; a layer with
        those of another one has none."""
        self.queries: dict[int, Tensor] = {}
        """[1, heads, 1, width]"""
        self.met: dict[int, tuple[int, ...]] = {}
        """Shape of the keys that the queries of each layer meet."""
        self.modules: dict[int, nn.Module] = {}
        self.scaling: dict[int, float] = {}
        self.windows: dict[int, int | None] = {}
        """Window that each layer's attention is told of, if any."""
        self.sink_logits: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Note the rows of a layer; the model's attention calls this.

        Raises UnsupportedModelError where a layer runs twice.
        """
        self._check_once(layer_idx, self.rows)
        self.rows[layer_idx] = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: nothing is cached."""
        return 0

    def mask(self, module: nn.Module, given: Tensor | None) -> None:
        """Return None: a lone token sees itself. Raises UnsupportedModelError where the model makes a mask of its
        own."""
        if given is not None:
            raise UnsupportedModelError(
                f"Layer {layer_of(module)} makes a mask of its own, which an engine cannot know; {INSTEAD}."
            )

    def record(self, module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        """Note how a layer attends; the attention function calls this.

        Raises UnsupportedModelError where scores are changed by more than scaling and sinks, or tokens see later ones.
        """
        layer = layer_of(module)
        self._check_once(layer, self.modules)
        for name in _SOFTMAX_CHANGES:
            if options.get(name) is not None:
                raise UnsupportedModelError(f"Layer {layer} changes its attention scores ({name}); {INSTEAD}.")
        if not options.get("is_causal", getattr(module, "is_causal", True)):
            raise UnsupportedModelError(f"Layer {layer} is of an encoder: tokens see later ones; {INSTEAD}.")
        scaling = options.get("scaling")
        self.modules[layer] = module
        self.queries[layer] = query
        self.met[layer] = tuple(key.shape)
        self.scaling[layer] = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        self.windows[layer] = options.get("sliding_window")
        if options.get("s_aux") is not None:
            self.sink_logits[layer] = options["s_aux"].detach()

    def _check_once(self, layer: int, seen: Container[int]) -> None:
        if layer in seen or layer >= self.depth:
            raise UnsupportedModelError(
                f"Layer {layer} runs more than once for a token, or is none of the model's {self.depth}: its layers "
                f"run in loops; {INSTEAD}."
            )

    def pairs(self, layer: int, other: LayoutProbe) -> Iterator[tuple[Tensor, Tensor]]:
        """Give key, value and query of a layer, each beside that of another pass; empty rows where it keeps none."""
        nothing = torch.zeros(0), torch.zeros(0)
        yield from zip(self.rows.get(layer, nothing), other.rows.get(layer, nothing), strict=True)
        yield self.queries[layer], other.queries[layer]


def reaches(config: Any) -> tuple[Reach, ...]:
    """Return how far back each layer sees, as the configuration says. Needs no weights.

    Raises UnsupportedModelError where it names a layer whose cache is more than K and V of each token.
    """
    text = config.get_text_config(decoder=True)
    depth, kind = text.num_hidden_layers, text.model_type
    if any("mrope_section" in rope for rope in _ropes(text)):
        raise UnsupportedModelError(f"This {kind} model has positions of several axes (M-RoPE); {INSTEAD}.")
    layers = getattr(text, "per_layer_config", None) or [text] * depth
    types = getattr(text, "layer_types", None) or [_implied_type(layer) for layer in layers]
    found = []
    for layer, (name, said) in enumerate(zip(types, layers, strict=False)):
        window, chunk = getattr(said, "sliding_window", None), getattr(said, "attention_chunk_size", None)
        if name == _WINDOW and window:
            found.append(Reach(window=window))
        elif name == _CHUNKED and chunk:
            found.append(Reach(chunk=chunk))
        elif name in _WHOLE:
            found.append(Reach())
        else:
            why = _REFUSED.get(name, "whose cache cannot be edited by the cell")
            raise UnsupportedModelError(f"Layer {layer} of this {kind} model is of type {name}, {why}; {INSTEAD}.")
    return tuple(found)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Return the settings of the rotary embedding: one, or one for each type of layer."""
    said = getattr(config, "rope_parameters", None) or {}
    nested = [part for part in said.values() if isinstance(part, dict)]
    return nested or [said]


def _implied_type(config: Any) -> str:
    if getattr(config, "sliding_window", None):
        return _WINDOW
    return _CHUNKED if getattr(config, "attention_chunk_size", None) else _WHOLE[0]


_INDEXED = "which chooses the cells that a token sees by an index of its own"
_COMPRESSED = "which keeps several tokens in one cell"
_REFUSED = {
    "indexed_attention": _INDEXED,
    "deepseek_sparse_attention": _INDEXED,
    "qwen_sparse_attention": _INDEXED,
    "compressed_sparse_attention": _COMPRESSED,
    "heavily_compressed_attention": _COMPRESSED,
}
"""Types of layers whose cache is more than K and V of each token, and what they do."""


def run_probe(forward: Forward, position: int) -> LayoutProbe:
    """Run one token at this position. Raises UnsupportedModelError where a layer cannot be masked or kept by the
    cell."""
    kind, depth = forward.config.model_type, forward.config.num_hidden_layers
    probe = LayoutProbe(depth)
    try:
        forward(probe, torch.tensor([_token(forward.model)]), torch.tensor([position]), 1)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"This {kind} model does not run on an editable cache ({reason}); {INSTEAD}."
        ) from error
    for layer in range(depth):
        shared = getattr(probe.modules.get(layer), "is_kv_shared_layer", False)
        if layer not in probe.rows and not shared:
            raise UnsupportedModelError(f"Layer {layer} of this {kind} model keeps no K and V of its own; {INSTEAD}.")
        if layer not in probe.modules:
            raise UnsupportedModelError(
                f"Layer {layer} of this {kind} model computes attention in its own way, which an engine cannot mask; "
                f"{INSTEAD}."
            )
    return probe


def _token(model: Any) -> int:
    """Return the first token that the model embeds as something: zeros, as for padding, show nothing."""
    weights = model.get_input_embeddings().weight
    return next((token for token, row in enumerate(weights) if bool(row.any())), 0)


def layout_of(
    probe: LayoutProbe, reach: Sequence[Reach], probe_layers: ProbeLayers, editable: int | None = None
) -> CellLayout:
    """Return the layout that the probe saw, with these probe layers, by default one that sees the whole context.

    Raises UnsupportedModelError where a layer's attention is told of another window than the configuration's, or keeps
    more than one row a token; ValueError for a probe layer that has no keys of its own; ModelError for an `editable`
    (see CellLayout) that is negative, or of a model without windows.
    """
    if editable is not None and (editable < 0 or all(each.whole for each in reach)):
        raise ModelError(
            "editable_tokens is a number of tokens, 0 or more, for models with layers that have a sliding window; this "
            f"is {editable} for one that {'has none' if all(each.whole for each in reach) else 'has some'}."
        )
    layers = tuple(_shape(probe, layer, reach[layer]) for layer in range(probe.depth))
    met = [layer for layer, shape in enumerate(layers) if _meets(shape, probe.met[layer])]
    whole = [layer for layer in met if layers[layer].reach.whole]
    chosen = chosen_layers(probe_layers, probe.depth, met if editable is None else whole, whole)
    return CellLayout(layers, next(iter(probe.rows.values()))[0].dtype, chosen, editable)


def unproven(config: Any) -> str:
    """Return why few recomputed tokens may do little in a model of this configuration; see Engine.unproven."""
    latent = getattr(config.get_text_config(decoder=True), "kv_lora_rank", None)
    return "its K and V are kept compressed (latent attention)" if latent else ""


def _shape(probe: LayoutProbe, layer: int, reach: Reach) -> LayerShape:
    query, window = probe.queries[layer], probe.windows[layer]
    if window is not None and window != reach.window:
        raise UnsupportedModelError(
            f"Layer {layer} attends through a window of {window:,} tokens of which its configuration says nothing; "
            f"{INSTEAD}."
        )
    if reach.window is not None and window is None and not _makes_windows(probe.modules[layer]):
        raise UnsupportedModelError(
            f"The configuration gives layer {layer} a window of {reach.window:,} tokens of which its attention is not "
            f"told; take sliding_window out of the configuration, or {INSTEAD}."
        )
    keys, values = probe.rows.get(layer, (query[:, :0], query[:, :0]))
    if keys.shape[:3] != values.shape[:3] or (keys.shape[2] != 1 and layer in probe.rows):
        raise UnsupportedModelError(
            f"Layer {layer} caches {list(keys.shape[1:])} and {list(values.shape[1:])} for one token, not two rows of "
            f"[heads, 1, width]; {INSTEAD}."
        )
    own = probe.met[layer] == tuple(keys.shape)
    return LayerShape(
        kv_heads=keys.shape[1],
        key_dim=keys.shape[3],
        value_dim=values.shape[3],
        heads=query.shape[1],
        query_dim=query.shape[3],
        device=query.device,
        reach=reach,
        sinks=probe.sink_logits.get(layer),
        expand=None if own else _expansion(probe.modules[layer]),
    )


def _makes_windows(attention: nn.Module) -> bool:
    """Return whether the code that this attention comes from makes masks of windows."""
    return hasattr(sys.modules[type(attention).__module__], "create_sliding_window_causal_mask")


def _expansion(attention: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what makes keys of the compressed rows of latent attention, where the module shows it."""
    expand = getattr(attention, "expand_kv", None)
    return None if expand is None else lambda rows, rotary: expand(rows, rotary)[0]


def _meets(shape: LayerShape, met: tuple[int, ...]) -> bool:
    """Return whether the keys that a layer's queries meet are known from the rows that it keeps itself."""
    return bool(shape.kv_heads) and (shape.expand is not None or met[1::2] == (shape.kv_heads, shape.key_dim))


def context_limit(config: Any, wanted: int | None) -> int:
    """Return the longest sequence: what is wanted, else what the model can take. Raises ModelError beyond that.

    NOTE: LongRoPE ends at its original length: beyond it all frequencies change, and keys cached before would be wrong.
    """
    text = config.get_text_config(decoder=True)
    limit = int(text.max_position_embeddings)
    for rope in _ropes(text):
        if rope.get("rope_type") == "longrope":
            limit = min(limit, int(rope["original_max_position_embeddings"]))
    if wanted is not None and not 1 <= wanted <= limit:
        raise ModelError(f"A context_length of this model is 1 to {limit:,} tokens, not {wanted:,}.")
    return wanted or limit
