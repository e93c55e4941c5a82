"""What an eraser is trained for: the steered cache predicts what never-saw predicts.

The loss is KL(never-saw || steered) over the queries' tokens (method.md, "Training the eraser"). Four passes:

1. no gradient, adapter off: the whole context, for the rows of prefix and suffix as a session has them;
2. gradient, adapter on: the span over the prefix's rows; its rows are the steering states;
3. gradient through the steering states, adapter off: the queries over prefix, steering states and suffix;
4. no gradient, adapter off: never-saw, and the queries over it.

`packed.py` does the same in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from kv_memory.training.batch import Batch, Segment
from kv_memory.training.checkpointing import checkpointed

Rows = list[tuple[Tensor, Tensor]]
"""K and V of each layer, [rows, kv_heads, tokens, head_dim]."""
Switch = Callable[[bool], AbstractContextManager[None]]
"""Turns the adapter on or off for a block."""


class RowsCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Given rows, and those of the tokens that run over them."""

    def __init__(self, given: Rows | None = None) -> None:
        super().__init__(layers=[])
        self.given = given
        self.new: Rows = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Called by the model's attention, layer by layer."""
        self.new.append((key_states, value_states))
        if self.given is None:
            return key_states, value_states
        keys, values = self.given[layer_idx]
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def alike(self) -> RowsCache:
        """One over the same rows, with none of its own."""
        return RowsCache(self.given)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Given tokens."""
        return 0 if self.given is None else self.given[0][0].shape[2]


@dataclass(frozen=True)
class Context:
    """Rows that queries can be asked over."""

    rows: Rows
    segments: tuple[Segment, ...]
    """Whose rows they are, in order."""


class Objective:
    """The four passes of one model. `adapter(on)` is a context manager that turns the adapter on or off."""

    def __init__(self, model: Any, adapter: Switch, *, checkpoint: bool = False) -> None:
        """`checkpoint`: passes with a gradient keep the input of each layer alone and run each layer once more."""
        self.model = model
        self.adapter = adapter
        self.checkpoint = checkpoint

    def loss(self, batch: Batch) -> Tensor:
        """Mean KL(never-saw || steered) by the queries' weights, in nats: float32 scalar."""
        reference = self.never_saw(batch)
        return weighted_mean(divergence(reference, self.ask(batch, self.steer(batch, self.read(batch)))), batch.weights)

    @torch.no_grad()
    def read(self, batch: Batch) -> Context:
        """Pass 1: the context with its span, as a session has it."""
        segments = (batch.prefix, batch.span, batch.suffix)
        return Context(self._run(segments)[1], segments)

    def steer(self, batch: Batch, read: Context) -> Context:
        """Pass 2: the span's rows replaced by steering states."""
        before, after = _part(read, 0), _part(read, 2)
        states = self._run((batch.span,), Context(before, (batch.prefix,)), adapter=True)[1]
        return Context(_joined(before, states, after), read.segments)

    def drop(self, batch: Batch, read: Context) -> Context:
        """The bar to beat: the span's rows gone, all else as it was."""
        return Context(_joined(_part(read, 0), _part(read, 2)), (batch.prefix, batch.suffix))

    def ask(self, batch: Batch, context: Context, queries: Segment | None = None) -> Tensor:
        """Pass 3: log-probabilities after each token of the queries, float32 [rows, query tokens, vocabulary]."""
        logits = self._run((queries or batch.queries,), context)[0]
        return logits.float().log_softmax(-1)

    @torch.no_grad()
    def never_saw(self, batch: Batch) -> Tensor:
        """Pass 4: what the queries give over a context that never had the span, as `ask`."""
        segments = (batch.prefix, batch.suffix.without(batch.gone))
        rows = self._run(segments)[1]
        return self.ask(batch, Context(rows, segments), batch.queries.without(batch.gone))

    def _run(
        self, segments: Sequence[Segment], over: Context | None = None, *, adapter: bool = False
    ) -> tuple[Tensor, Rows]:
        """Logits and rows of these segments' tokens over given ones."""
        new = _concatenated(segments)
        held = (*over.segments, *segments) if over else tuple(segments)
        mask = visible(new, _concatenated(held), self.model.dtype)
        cache = RowsCache(over.rows if over else None)
        switched = partial(self.adapter, adapter)
        layers = checkpointed(self.model, switched) if self.checkpoint and torch.is_grad_enabled() else nullcontext()
        with switched(), layers:
            output = self.model(
                input_ids=new.ids,
                position_ids=new.positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            )
        return output.logits, cache.new


def visible(asking: Segment, held: Segment, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, asking, held]: a token sees what is real, not later, and not of another query."""
    later = held.positions[:, None, :] > asking.positions[:, :, None]
    other = (held.group[:, None, :] != 0) & (held.group[:, None, :] != asking.group[:, :, None])
    hidden = later | other | ~held.real[:, None, :]
    # Padding sees the first token, so that its softmax is over something.
    hidden[:, :, 0] &= asking.real
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def divergence(reference: Tensor, given: Tensor) -> Tensor:
    """KL(reference || given) of log-probabilities [..., vocabulary], in nats: [...]."""
    return (reference.exp() * (reference - given)).sum(-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of `values` by `weights`, same shapes."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-9)


def _part(context: Context, place: int) -> Rows:
    """The rows of one segment."""
    lengths = [segment.ids.shape[1] for segment in context.segments]
    start = sum(lengths[:place])
    where = slice(start, start + lengths[place])
    return [(keys[:, :, where], values[:, :, where]) for keys, values in context.rows]


def _joined(*parts: Rows) -> Rows:
    return [
        (torch.cat([keys for keys, _ in layer], 2), torch.cat([values for _, values in layer], 2))
        for layer in zip(*parts, strict=True)
    ]


def _concatenated(segments: Sequence[Segment]) -> Segment:
    fields = zip(*((s.ids, s.positions, s.real, s.group) for s in segments), strict=True)
    return Segment(*(torch.cat(field, 1) for field in fields))
