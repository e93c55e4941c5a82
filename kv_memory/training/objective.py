"""What an eraser is trained for: the steered cache predicts what never-saw predicts.

The loss is KL(never-saw || steered) over the queries' tokens (method.md, "Training the eraser"). Four passes:

1. no gradient, adapter off: the whole context, for the rows of prefix and suffix as a session has them;
2. gradient, adapter on: the span over the prefix's rows; its rows are the steering states;
3. gradient through the steering states, adapter off: the queries over prefix, steering states and suffix;
4. no gradient, adapter off: never-saw, and the queries over it.

Where a repair is to follow the eraser, the suffix's tokens that attended to the span most are run again between 2 and
3, over the steering states and with a gradient. `packed.py` does the same in one pass.

`mass` is how much the queries would attend to the steering states at all: the loss of a start near `drop`, and a weight
on what disturbs answers that have nothing to do with the span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from kv_memory.engines.base import default_probe_layer
from kv_memory.engines.transformers.attention import recorded
from kv_memory.engines.transformers.rotary import Rotation
from kv_memory.erasers.influence import HOPS, shares
from kv_memory.training.batch import Batch, Segment
from kv_memory.training.checkpointing import checkpointed
from kv_memory.training.passes import Context, Rows, RowsCache, compact, concatenated, joined, part, real_first, visible
from kv_memory.training.watching import KERNELS, Watch, attention_mass

Switch = Callable[[bool], AbstractContextManager[None]]
"""Turns the adapter on or off for a block."""


class Objective:
    """The four passes of one model. `adapter(on)` is a context manager that turns the adapter on or off."""

    def __init__(
        self,
        model: Any,
        adapter: Switch,
        *,
        sees_suffix: bool = False,
        closing: Rotation | None = None,
        checkpoint: bool = False,
    ) -> None:
        """`sees_suffix`: as Steering's. `closing`: how the model's keys move, if the gap is to be closed. `checkpoint`:
        passes with a gradient keep the input of each layer alone and run each layer once more."""
        self.model = model
        self.adapter = adapter
        self.sees_suffix = sees_suffix
        self.closing = closing
        self.checkpoint = checkpoint
        self.config = model.config.get_text_config(decoder=True)
        self.probe_layer = default_probe_layer(self.config.num_hidden_layers)

    def loss(self, batch: Batch, repair: int = 0, mass_weight: float = 0.0) -> Tensor:
        """Mean KL(never-saw || steered) by the queries' weights, in nats, and so much of `mass`: float32 scalar.

        `repair`: so many tokens that `influence` chooses are run again after steering.
        """
        reference = self.never_saw(batch)
        read = self.read(batch)
        steered = self.steer(batch, read)
        context = self.repair(steered, self.choose(batch, read, repair)) if repair else steered
        loss = weighted_mean(divergence(reference, self.ask(batch, context)), batch.weights)
        return loss + mass_weight * self._mass(batch, steered) if mass_weight else loss

    def mass(self, batch: Batch) -> Tensor:
        """Mean of -log(1 - share) over layers, heads and the queries' tokens, in nats: float32 scalar.

        `share` is that of a token's attention that would rest on the steering states, were everything else as after
        `drop`. Where it is 0 everywhere, steering is the same as dropping.
        """
        return self._mass(batch, self.steer(batch, self.read(batch)))

    def _mass(self, batch: Batch, steered: Context) -> Tensor:
        before, states, after = (part(steered, place) for place in range(3))
        segments = (steered.segments[0], steered.segments[2])
        dropped = compact(Context(joined(before, after), segments, closed=steered.closed))
        queries, asked = _asked(batch, dropped), Watch()
        with torch.no_grad():
            rows = self._run((queries,), dropped, watch=asked)[1]
        held = concatenated((*dropped.segments, queries, batch.slots))
        mask = visible(queries, held, torch.float32)
        target = torch.zeros_like(held.real)
        target[:, -batch.slots.ids.shape[1] :] = True
        found = []
        for layer, (keys, _) in enumerate(joined(dropped.rows, rows, states)):
            shares = attention_mass(asked.queries[layer].float(), keys.float(), target, mask, asked.scaling[layer])
            found.append(-torch.log1p(-shares.clamp_max(1 - 1e-4)).mean(1))
        return weighted_mean(torch.stack(found).mean(0), batch.queries.real.float())

    @torch.no_grad()
    def read(self, batch: Batch) -> Context:
        """Pass 1: the context with its span, as a session has it, and the queries that an engine keeps."""
        segments, watch = (batch.prefix, batch.span, batch.suffix), Watch((self.probe_layer,))
        return Context(self._whole(segments, watch), segments, watch)

    def steer(self, batch: Batch, read: Context) -> Context:
        """Pass 2: the slots' rows are steering states, the span's others are gone."""
        kept = self._without_states(batch, read)
        before, after, suffix = part(kept, 0), part(kept, 1), kept.segments[1]
        over = Context(before, (batch.prefix,))
        if self.sees_suffix:
            over = Context(kept.rows, (batch.prefix, suffix.ahead()))
        states = self._run((batch.slots,), over, adapter=True)[1]
        return Context(joined(before, states, after), (batch.prefix, batch.slots, suffix), closed=kept.closed)

    def _without_states(self, batch: Batch, read: Context) -> Context:
        """Prefix and suffix, where they are to stand beside the steering states."""
        if self.closing is None:
            return self.drop(batch, read)
        return self.shift(batch, read, self.closing, batch.gone - batch.slots.real.sum(1))

    @torch.no_grad()
    def choose(self, batch: Batch, read: Context, count: int) -> Tensor:
        """The suffix's tokens that attended to the span most, as `influence` has it: places [rows, up to count]."""
        watch, layer, length = read.watch, self.probe_layer, batch.suffix.ids.shape[1]
        assert watch is not None, "what was read has queries"
        target = torch.cat([torch.full_like(held.real, held is batch.span) for held in read.segments], 1)
        queries = watch.queries[layer][:, :, -length:]
        mask = visible(batch.suffix, concatenated(read.segments), queries.dtype)
        for wanted in shares(min(count, length), HOPS):
            mass = attention_mass(queries, read.rows[layer][0], target, mask, watch.scaling[layer]).float().mean(1)
            mass = mass.masked_fill(~batch.suffix.real, -1.0).masked_fill(target[:, -length:], -2.0)
            chosen = mass.topk(wanted).indices + target.shape[1] - length
            target = target.scatter(1, chosen, value=True)
        return target[:, -length:].to(torch.uint8).topk(min(count, length)).indices

    def repair(self, erased: Context, places: Tensor) -> Context:
        """The suffix's tokens at these places [rows, places] run again, over the steering states or the gap."""
        *before, suffix = erased.segments
        over = replace(erased, segments=(*before, suffix.hiding(places)))
        again = suffix.at(places)
        rows = joined(over.rows, self._run((again,), over)[1])
        return replace(erased, rows=rows, segments=(*over.segments, again))

    def drop(self, batch: Batch, read: Context) -> Context:
        """The bar to beat: the span's rows gone, all else as it was."""
        return Context(joined(part(read, 0), part(read, 2)), (batch.prefix, batch.suffix))

    @torch.no_grad()
    def shift(self, batch: Batch, read: Context, rotation: Rotation, by: Tensor) -> Context:
        """As `drop`, and what follows the span `by` [rows] positions further up."""
        after = part(read, 2)
        turned = [rotation.turn_keys(layer, keys, -by) for layer, (keys, _) in enumerate(after)]
        after = [(keys, values) for keys, (_, values) in zip(turned, after, strict=True)]
        return Context(joined(part(read, 0), after), (batch.prefix, batch.suffix.without(by)), closed=by)

    def ask(self, batch: Batch, context: Context, queries: Segment | None = None) -> Tensor:
        """Pass 3: log-probabilities after each token of the queries, float32 [rows, query tokens, vocabulary]."""
        logits = self._run((queries or _asked(batch, context),), compact(context), keep=0)[0]
        return logits.float().log_softmax(-1)

    @torch.no_grad()
    def never_saw(self, batch: Batch) -> Tensor:
        """Pass 4: what the queries give over a context that never had the span, as `ask`."""
        segments = (batch.prefix, batch.suffix.without(batch.gone))
        rows = self._whole(segments, Watch(()))
        return self.ask(batch, Context(rows, segments), batch.queries.without(batch.gone))

    def _whole(self, segments: Sequence[Segment], watch: Watch) -> Rows:
        """Rows of contexts that nothing is before, and their queries.

        The tokens of each run without the padding between them. Attention is then causal, which kernels do without a
        mask: several times as quick for long contexts. Padding gets rows that no token sees.
        """
        given = concatenated(segments)
        order, longest = real_first(given)
        back = order.argsort(1)
        order, back = order[:, :longest], back.clamp(max=longest - 1)[:, None, :, None]
        cache = RowsCache()
        with self.adapter(False), recorded(self.config, watch), sdpa_kernel(KERNELS):
            self.model(
                input_ids=given.ids.gather(1, order),
                position_ids=given.positions.gather(1, order),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        watch.queries = {layer: queries.take_along_dim(back, 2) for layer, queries in watch.queries.items()}
        return [(keys.take_along_dim(back, 2), values.take_along_dim(back, 2)) for keys, values in cache.new]

    def _run(
        self,
        segments: Sequence[Segment],
        over: Context | None = None,
        *,
        adapter: bool = False,
        watch: Watch | None = None,
        keep: int = 1,
    ) -> tuple[Tensor, Rows]:
        """Logits, of the last `keep` (0: all), and rows of these segments' tokens over given ones; `watch` keeps their
        queries."""
        new = concatenated(segments)
        held = (*over.segments, *segments) if over else tuple(segments)
        mask = visible(new, concatenated(held), self.model.dtype)
        cache = RowsCache(over.rows if over else None)
        switched = partial(self.adapter, adapter)
        layers = checkpointed(self.model, switched) if self.checkpoint and torch.is_grad_enabled() else nullcontext()
        with switched(), layers, recorded(self.config, watch) if watch else nullcontext(), sdpa_kernel(KERNELS):
            output = self.model(
                input_ids=new.ids,
                position_ids=new.positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        return output.logits, cache.new


def _asked(batch: Batch, context: Context) -> Segment:
    """The queries, after this context."""
    return batch.queries if context.closed is None else batch.queries.without(context.closed)


def divergence(reference: Tensor, given: Tensor) -> Tensor:
    """KL(reference || given) of log-probabilities [..., vocabulary], in nats: [...]."""
    return (reference.exp() * (reference - given)).sum(-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of `values` by `weights`, same shapes."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-9)
