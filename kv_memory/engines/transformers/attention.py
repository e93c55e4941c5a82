"""The attention function that an engine runs: the library's SDPA attention with the engine's mask for each layer,
after showing the query to a recorder.

The model's own code calls it through transformers' AttentionInterface with the post-RoPE query. No mask function is
registered beside it: for an attention without one, transformers builds no masks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "kv_memory"


class Recorder(Protocol):
    """Object that is shown each layer's attention call of one forward pass, and says what its tokens see."""

    sinks: bool
    """Whether sinks take part in the softmax."""

    def mask(self, module: nn.Module, given: Tensor | None) -> Tensor | None:
        """Return the additive mask [1, 1, tokens, cells] of a layer; None for a causal one, or nothing to hide.

        `given`: the mask that the model's own code gives.
        """
        ...

    def record(self, module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        """Note one attention call.

        `query` is post-RoPE, [1, heads, tokens, query_dim], `key` [1, kv_heads, cells, query_dim]; `options` are the
        attention's other arguments.
        """
        ...


# A context variable, because two engines may run in two threads and the function is registered once for both.
_recorder: ContextVar[Recorder] = ContextVar("kv_memory_recorder")


def _recording_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    recorder = _recorder.get()
    recorder.record(module, query, key, options)
    mask = recorder.mask(module, attention_mask)
    # Where the last layers write no K and V, a model may run them for the tokens alone whose logits are wanted.
    mask = None if mask is None else mask[:, :, -query.shape[2] :]
    sinks = options.pop("s_aux", None)
    if sinks is None or not recorder.sinks:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0], None
    scaling = options.pop("scaling", None) or query.shape[-1] ** -0.5
    query, key, value = _with_sinks(query, key, value, sinks / scaling)
    mask = _causal(query, key) if mask is None and query.shape[2] > 1 else mask
    mask = None if mask is None else pad(mask, (0, 1))
    return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **options)[0], None


def _with_sinks(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values with one key more, which stands for no cell and has the score `sinks` [heads].

    A further dimension gives it: that key has 1 there and every other one 0, and the queries of a head have its sink.
    """
    sink = sinks.to(query.dtype)[None, :, None, None].expand(*query.shape[:3], 1)
    further = pad(key.new_zeros(*key.shape[:2], 1, key.shape[3]), (0, 1), value=1.0)
    return torch.cat([query, sink], -1), torch.cat([pad(key, (0, 1)), further], 2), pad(value, (0, 0, 0, 1))


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """Return an additive mask [1, 1, tokens, keys]: the tokens are the last of the keys but for the sink's."""
    tokens, cells = query.shape[2], key.shape[2] - 1
    hidden = torch.ones(tokens, cells, dtype=torch.bool, device=query.device).triu(1 + cells - tokens)
    return torch.zeros(hidden.shape, dtype=query.dtype, device=query.device).masked_fill_(hidden, float("-inf"))[
        None, None
    ]


AttentionInterface.register(NAME, _recording_attention)


@contextmanager
def recorded(config: Any, recorder: Recorder) -> Iterator[None]:
    """Let the model of this (text) config attend through `recorder` in the block, and as before afterwards."""
    previous = config._attn_implementation
    token = _recorder.set(recorder)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = previous
        _recorder.reset(token)
