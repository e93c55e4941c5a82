"""Caches of models with recurrent layers: made, copied, cut back to a checkpoint.

Attention layers keep K and V of all tokens, at full length where the model has a window, so that they can be cut. The
rows are never written in place, so that copies share them. Recurrent layers overwrite their state in place, so that a
copy has its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from kv_memory.errors import UnsupportedModelError

KNOWN = (
    DynamicLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    getattr(cache_utils, "DummyLayer", DynamicLayer),  # of layers that cache nothing; older releases have none
)


def recurrent_kinds(config: Any) -> list[str]:
    """Return the types of the layers that keep a running state, each once; none for a model of attention alone.

    Needs no weights. Raises nothing: a model whose cache transformers does not know has none.
    """
    text = config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=text).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
    types = getattr(text, "layer_types", None) or [text.model_type] * len(layers)
    pairs = zip(types, layers, strict=False)
    return list(dict.fromkeys(kind for kind, layer in pairs if isinstance(layer, LinearAttentionCacheLayerMixin)))


def check_recurrent(config: Any) -> None:
    """Raise UnsupportedModelError where no layer is recurrent, or another one cannot be cut. Needs no weights."""
    text = config.get_text_config(decoder=True)
    if not recurrent_kinds(config):
        raise UnsupportedModelError(f"This {text.model_type} model has no recurrent layers; use TransformersEngine.")
    new_cache(text)


def new_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a (text) config. Raises UnsupportedModelError for a layer that cannot be cut."""
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[number] = DynamicLayer()
        elif type(layer) not in KNOWN:
            raise UnsupportedModelError(
                f"Layer {number} of this {config.model_type} model keeps its cache in a {type(layer).__name__}, which "
                "cannot be cut back beside recurrent layers; use a model whose other layers have full attention or a "
                "window, such as Qwen3.5, Qwen3-Next, LFM2, Granite 4 or Nemotron-H."
            )
    return cache


@dataclass(frozen=True)
class SavedState:
    """A copy of what the recurrent layers hold after some token, and of the logits after it."""

    layers: tuple[Any | None, ...]
    """Recurrent layers without rows of K and V; None for other layers."""
    logits: Tensor
    """[vocabulary]"""

    @property
    def size(self) -> int:
        """Return its bytes."""
        tensors = [tensor for layer in self.layers if layer is not None for tensor in _tensors(layer)]
        return sum(tensor.nbytes for tensor in [*tensors, self.logits])


def saved_state(cache: DynamicCache, logits: Tensor, device: torch.device | None) -> SavedState:
    """Copy the state of the recurrent layers, to a device or, with None, where it is."""
    layers = []
    for layer in cache.layers:
        recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
        other = _copied(layer, lambda tensor: _moved(tensor, device)) if recurrent else None
        if other is not None and isinstance(layer, DynamicLayer):
            other.keys = other.values = None
        layers.append(other)
    return SavedState(tuple(layers), _moved(logits, device))


def copied_cache(cache: DynamicCache) -> DynamicCache:
    """Return an independent copy of a cache."""
    other = copy.copy(cache)
    other.layers = [_copied(layer, lambda tensor: tensor.clone()) for layer in cache.layers]
    return other


def cut_cache(cache: DynamicCache, state: SavedState, cells: int) -> DynamicCache:
    """Return a cache of the first `cells` tokens, after which `state` was saved. The given one stays as it is."""
    other = copy.copy(cache)
    other.layers = []
    for layer, saved in zip(cache.layers, state.layers, strict=True):
        made = copy.copy(layer) if saved is None else _copied(saved, partial(_home, layer))
        if isinstance(layer, DynamicLayer) and layer.keys is not None:
            made.keys, made.values = layer.keys[..., :cells, :].clone(), layer.values[..., :cells, :].clone()
        other.layers.append(made)
    return other


def without_states(cache: DynamicCache, kind: str) -> DynamicCache:
    """Return a copy of a cache with zeros for the states of a kind, "conv_states" or "recurrent_states"."""
    other = copied_cache(cache)
    for layer in other.layers:
        states = getattr(layer, kind, None)
        for state in states.values() if isinstance(states, dict) else [states]:
            if state is not None:
                state.zero_()
    return other


def _copied(layer: Any, copied: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a layer whose running state is `copied`; rows of K and V are shared."""
    other = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(other, name, {k: copied(one) if isinstance(one, Tensor) else one for k, one in value.items()})
        elif isinstance(value, Tensor) and name not in ("keys", "values"):
            setattr(other, name, copied(value))
    return other


def _tensors(layer: Any) -> list[Tensor]:
    values = [one for value in vars(layer).values() for one in (value.values() if isinstance(value, dict) else [value])]
    return [value for value in values if isinstance(value, Tensor)]


def _moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    return tensor.to(device or tensor.device, copy=True)


def _home(layer: Any, tensor: Tensor) -> Tensor:
    """Return a copy of a saved tensor on the device where the layer computes."""
    own = next(iter(_tensors(layer)), tensor)
    return tensor.to(own.device, copy=True)
