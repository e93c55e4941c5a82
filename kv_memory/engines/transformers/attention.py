"""The attention function that an engine runs: the library's SDPA attention, after showing the query to a recorder.

The model's own code calls it through transformers' AttentionInterface with the post-RoPE query. No mask function is
registered beside it: for an attention without one, transformers builds no masks of its own and hands on the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "kv_memory"


class Recorder(Protocol):
    """Object that is shown each layer's attention call of one forward pass."""

    def record(self, module: nn.Module, query: Tensor, options: dict[str, Any]) -> None:
        """Note one attention call.

        `query` is post-RoPE, [1, heads, tokens, head_dim]; `options` are the attention's other arguments.
        """
        ...


# A context variable, because two engines may run in two threads and the function is registered once for both.
_recorder: ContextVar[Recorder] = ContextVar("kv_memory_recorder")


def _recording_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    _recorder.get().record(module, query, options)
    output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return output, None


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
