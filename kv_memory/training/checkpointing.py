"""Gradient checkpointing of the passes: a layer keeps only its input and is recomputed for the gradient.

transformers' own checkpointing turns the cache off, but the objective needs the rows that a pass writes: here they are
outputs of the layer like its hidden states (sublinear memory cost, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from kv_memory.engines.transformers.cache_argument import cache_name


@contextmanager
def checkpointed(model: Any, switched: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Checkpoint each layer within the block.

    `switched` sets adapter and attention kernels as the pass has them, also when a layer is recomputed, long after the
    pass.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    forwards = [layer.forward for layer in layers]
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = partial(_run, forward, switched)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _run(
    forward: Callable[..., Any], switched: Callable[[], AbstractContextManager[None]], hidden: Tensor, **given: Any
) -> Any:
    name = cache_name(given)
    cache = given.pop(name)

    def layer(hidden: Tensor) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
        own: Cache = cache.alike()
        with switched():
            return forward(hidden, **{name: own}, **given), own.new

    output, rows = checkpoint(layer, hidden, use_reentrant=False)
    cache.new += rows
    return output
