"""The objective of an eraser: the steered cache predicts what never-saw predicts.

The loss is KL(never-saw || steered) over the queries' tokens (method.md, "Training the eraser"). Four passes:

1. no gradient, adapter off: the whole context, for the rows of prefix and suffix as a session has them;
2. gradient, adapter on: the span over the prefix's rows; its rows are the steering states;
3. gradient through the steering states, adapter off: the queries over prefix, steering states and suffix;
4. no gradient, adapter off: never-saw, and the queries over it.

Where a repair follows the eraser, the suffix's tokens that attended to the span most are recomputed between 2 and 3,
over the steering states and with a gradient. `packed.py` does the same in one pass.

`mass` measures how much the queries would attend to the steering states at all. It is the loss for a start near `drop`,
and a weight on what disturbs answers that have nothing to do with the span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from kv_memory.engines.parts import default_probe_layer
from kv_memory.engines.transformers.attention import recorded
from kv_memory.engines.transformers.cache_argument import cache_argument
from kv_memory.engines.transformers.rotary import Rotation
from kv_memory.erasers.influence import HOPS, shares
from kv_memory.training.batch import Batch, Segment
from kv_memory.training.checkpointing import checkpointed
from kv_memory.training.passes import Context, Rows, RowsCache, compact, concatenated, joined, part, real_first, visible
from kv_memory.training.watching import KERNELS, Watch, attention_mass

Switch = Callable[[bool], AbstractContextManager[None]]
"""A function that turns the adapter on or off for a block."""


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
        """Set up the passes.

        `sees_suffix`: as in `Steering`. `closing`: the rotation of the model's keys, if the gap is to be closed.
        `checkpoint`: passes with a gradient keep only the input of each layer and recompute each layer once.
        """
        self.model = model
        self.adapter = adapter
        self.sees_suffix = sees_suffix
        self.closing = closing
        self.checkpoint = checkpoint
        self.cache_argument = cache_argument(model)
        self.config = model.config.get_text_config(decoder=True)
        self.probe_layer = default_probe_layer(self.config.num_hidden_layers)

    def loss(self, batch: Batch, repair: int = 0, mass_weight: float = 0.0) -> Tensor:
        """Return the mean KL(never-saw || steered) by the queries' weights, plus `mass_weight` times `mass`.

        A float32 scalar, in nats. `repair`: number of tokens, chosen by `influence`, that are recomputed after
        steering.
        """
        reference = self.never_saw(batch)
        read = self.read(batch)
        steered = self.steer(batch, read)
        context = self.repair(steered, self.choose(batch, read, repair)) if repair else steered
        loss = weighted_mean(divergence(reference, self.ask(batch, context)), batch.weights)
        return loss + mass_weight * self._mass(batch, steered) if mass_weight else loss

    def mass(self, batch: Batch) -> Tensor:
        """Return the mean of -log(1 - share) over layers, heads and the queries' tokens, in nats: float32 scalar.

        `share` is the share of a token's attention that would rest on the steering states if everything else were as
        after `drop`. Where it is 0 everywhere, steering is the same as dropping.
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
        """Run pass 1: the context with its span, as a session has it; keep the queries that an engine keeps."""
        segments, watch = (batch.prefix, batch.span, batch.suffix), Watch((self.probe_layer,))
        return Context(self._whole(segments, watch), segments, watch)

    def steer(self, batch: Batch, read: Context) -> Context:
        """Run pass 2: the slots get steering states, the span's other rows are dropped."""
        kept = self._without_states(batch, read)
        before, after, suffix = part(kept, 0), part(kept, 1), kept.segments[1]
        over = Context(before, (batch.prefix,))
        if self.sees_suffix:
            over = Context(kept.rows, (batch.prefix, suffix.ahead()))
        states = self._run((batch.slots,), over, adapter=True)[1]
        return Context(joined(before, states, after), (batch.prefix, batch.slots, suffix), closed=kept.closed)

    def _without_states(self, batch: Batch, read: Context) -> Context:
        """Return prefix and suffix at their positions beside the steering states."""
        if self.closing is None:
            return self.drop(batch, read)
        return self.shift(batch, read, self.closing, batch.gone - batch.slots.real.sum(1))

    @torch.no_grad()
    def choose(self, batch: Batch, read: Context, count: int) -> Tensor:
        """Choose the suffix's tokens that attended to the span most, as `influence` does: places [rows, up to
        count]."""
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
        """Recompute the suffix's tokens at these places [rows, places], over the steering states or the gap."""
        *before, suffix = erased.segments
        over = replace(erased, segments=(*before, suffix.hiding(places)))
        again = suffix.at(places)
        rows = joined(over.rows, self._run((again,), over)[1])
        return replace(erased, rows=rows, segments=(*over.segments, again))

    def drop(self, batch: Batch, read: Context) -> Context:
        """Drop the span's rows and leave all else as it was: the baseline to beat."""
        return Context(joined(part(read, 0), part(read, 2)), (batch.prefix, batch.suffix))

    @torch.no_grad()
    def shift(self, batch: Batch, read: Context, rotation: Rotation, by: Tensor) -> Context:
        """Drop the span's rows and move what follows them `by` [rows] positions towards the start."""
        after = part(read, 2)
        turned = [rotation.turn_keys(layer, keys, -by) for layer, (keys, _) in enumerate(after)]
        after = [(keys, values) for keys, (_, values) in zip(turned, after, strict=True)]
        return Context(joined(part(read, 0), after), (batch.prefix, batch.suffix.without(by)), closed=by)

    def ask(self, batch: Batch, context: Context, queries: Segment | None = None) -> Tensor:
        """Run pass 3: log-probabilities after each token of the queries, float32 [rows, query tokens, vocabulary]."""
        logits = self._run((queries or _asked(batch, context),), compact(context), keep=0)[0]
        return logits.float().log_softmax(-1)

    @torch.no_grad()
    def never_saw(self, batch: Batch) -> Tensor:
        """Run pass 4: the same as `ask`, over a context that never had the span."""
        segments = (batch.prefix, batch.suffix.without(batch.gone))
        rows = self._whole(segments, Watch(()))
        return self.ask(batch, Context(rows, segments), batch.queries.without(batch.gone))

    def _whole(self, segments: Sequence[Segment], watch: Watch) -> Rows:
        """Return the rows of contexts with nothing before them; `watch` keeps their queries.

        NOTE: the tokens of each row run without the padding between segments. Attention is then causal and needs no
        mask, which makes kernels several times as fast for long contexts. Padding gets rows that no token sees.
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
                use_cache=True,
                logits_to_keep=1,
                **{self.cache_argument: cache},
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
        """Run these segments' tokens over given rows; return logits of the last `keep` tokens (0: all) and the new
        rows.

        `watch` keeps their queries.
        """
        new = concatenated(segments)
        held = (*over.segments, *segments) if over else tuple(segments)
        mask = visible(new, concatenated(held), self.model.dtype)
        cache = RowsCache(over.rows if over else None)
        switched = partial(self._switched, adapter)
        layers = checkpointed(self.model, switched) if self.checkpoint and torch.is_grad_enabled() else nullcontext()
        with switched(), layers, recorded(self.config, watch) if watch else nullcontext():
            output = self.model(
                input_ids=new.ids,
                position_ids=new.positions,
                attention_mask=mask,
                use_cache=True,
                logits_to_keep=keep,
                **{self.cache_argument: cache},
            )
        return output.logits, cache.new

    @contextmanager
    def _switched(self, adapter: bool) -> Iterator[None]:
        """Set the adapter and the attention kernels of a pass.

        NOTE: a layer that is recomputed for the gradient needs the same kernels: what a kernel saves differs, and
        another one's tensors are refused.
        """
        with self.adapter(adapter), sdpa_kernel(KERNELS):
            yield


def _asked(batch: Batch, context: Context) -> Segment:
    """Return the queries at their positions after this context."""
    return batch.queries if context.closed is None else batch.queries.without(context.closed)


def divergence(reference: Tensor, given: Tensor) -> Tensor:
    """Return KL(reference || given) of log-probabilities [..., vocabulary], in nats: [...]."""
    return (reference.exp() * (reference - given)).sum(-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `values` by `weights`, same shapes."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-9)
