"""One forward pass of a transformers model over given cells: explicit positions, a mask by position, rows in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from kv_memory.engines.cells import CellStore, Slots, compact, on_device
from kv_memory.engines.reach import Reach
from kv_memory.engines.transformers.attention import recorded
from kv_memory.engines.transformers.cache_argument import cache_argument
from kv_memory.engines.window_rows import EMPTY


class PassCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """A model's cache during one pass: new rows go to given slots, and the model gets the rows of all slots in use."""

    sinks = True

    def __init__(
        self, store: CellStore, slots: Slots, stop_at: int | None = None, ahead_of: Tensor | None = None
    ) -> None:
        super().__init__(layers=[])
        self.store = store
        self.slots = slots
        self.ahead_of = ahead_of
        """Slots; the cells of all other slots are visible to every token of the pass, where this is given."""
        self.stop_at = stop_at
        """Layer at which the pass ends: its rows are kept in `stopped_with` and not written, and no queries are
        kept."""
        self.stopped_with: tuple[Tensor, Tensor] | None = None
        self._masks: dict[tuple[Reach, torch.device], Tensor | None] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write K and V [1, kv_heads, tokens, width] of a layer; the model's attention calls this."""
        if layer_idx == self.stop_at:
            self.stopped_with = key_states, value_states
            raise PassStopped
        return self.store.put(layer_idx, self.slots, key_states, value_states)

    def distance(self) -> Tensor:
        """Measure how far the rows of the layer where the pass stopped are from those in the store: [tokens]."""
        assert self.stop_at is not None and self.stopped_with is not None
        where = on_device(self.slots, self.stopped_with[0].device)
        pairs = zip(self.stopped_with, (self.store.keys, self.store.values), strict=True)
        parts = [(new - rows[self.stop_at][:, :, where]).float() for new, rows in pairs]
        return torch.cat(parts, dim=-1).square().sum((0, 1, 3)).sqrt()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the position of the first token of the pass: some models count on from it (see `Forward.counts`)."""
        return int(self.store.position[self.slots].min())

    def mask(self, module: nn.Module, given: Tensor | None) -> Tensor | None:
        """Return the additive mask of a layer, [1, 1, tokens, rows in use]; see `_mask`."""
        layer = layer_of(module)
        shape = self.store.layout.layers[layer]
        known = shape.reach, shape.device
        if known not in self._masks:
            self._masks[known] = _mask(self.store, self.slots, layer, self.ahead_of)
        return self._masks[known]

    def record(self, module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        """Keep the query of a probe layer."""
        layer = layer_of(module)
        if layer in self.store.layout.probe_layers and self.stop_at is None:
            self.store.put_queries(layer, self.slots, query)


def layer_of(attention: nn.Module) -> int:
    """Return the index of the layer that this attention module is in."""
    layer: Any = attention.layer_idx
    return int(layer)


class PassStopped(Exception):  # noqa: N818  # not an error: it ends a pass early, on purpose
    """Raised to end a pass at the layer where it is to stop."""


class Forward:
    """Forward passes of a model, in eval mode and without gradients. Between passes the model attends as its owner set
    it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.cache_argument = cache_argument(model)
        self.config = model.config.get_text_config(decoder=True)
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.vocabulary: int = model.get_input_embeddings().num_embeddings
        self.chunk = 2048 if self.device.type == "cuda" else 512
        """Tokens in one pass. The mask has a row for each, so that short passes keep it small."""
        self.counts = bool(getattr(self.config, "attn_temperature_tuning", False))
        """Whether the model counts positions on from where the cache ends, beside those that it is given (Llama 4, to
        scale queries): a pass then has tokens at consecutive positions alone."""

    @torch.inference_mode()
    def __call__(self, cache: Any, tokens: Tensor, positions: Tensor, keep: int) -> Tensor:
        """Compute the logits [keep, or all with 0, vocabulary] of these tokens (int64 [tokens])."""
        with recorded(self.config, cache):
            output = self.model(
                input_ids=tokens[None].to(self.device),
                position_ids=positions[None].to(self.device),
                attention_mask=None,
                use_cache=True,
                logits_to_keep=keep,
                **{self.cache_argument: cache},
            )
        logits: Tensor = output.logits[0]
        return logits

    def over(self, cache: PassCache, keep: int = 1) -> Tensor:
        """Run the tokens of the cache's slots at their positions, ascending, over the cells visible to each."""
        store, slots = cache.store, cache.slots
        return self(cache, store.token[slots], store.position[slots], keep)

    def append(
        self,
        store: CellStore,
        ids: Sequence[int],
        positions: Sequence[int],
        keep: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """Append cells after the last one, in passes, and return the logits of each pass.

        On an exception the new cells are removed.
        """
        end = store.next_position
        new_positions, new_ids = torch.tensor(positions), torch.tensor(ids)
        logits = []
        try:
            store.reserve(len(ids))
            for part in self._passes(new_positions):
                slots = store.allocate(new_positions[part], new_ids[part])
                logits.append(self.over(PassCache(store, slots), keep))
                if progress is not None:
                    progress(part.stop)
        except BaseException:
            store.release(store.between(end))
            raise
        return logits

    def _passes(self, positions: Tensor) -> list[slice]:
        """Divide tokens at these positions, ascending, into those of one pass each."""
        jumps = ((positions.diff() != 1).nonzero()[:, 0] + 1).tolist() if self.counts else []
        ends = [0, *jumps, len(positions)]
        return [
            slice(start, min(start + self.chunk, end))
            for first, end in pairwise(ends)
            for start in range(first, end, self.chunk)
        ]

    def rerun(self, store: CellStore, slots: Tensor, *, ahead: bool = False) -> Tensor:
        """Recompute the rows of cells (slots in position order) and return the logits [vocabulary] after the last.

        Long inputs take several passes, with the result of one: a token sees only the earlier ones among these cells.
        With `ahead` it sees all other cells too. On an exception all rows are as before.
        """
        with restored_on_error(store, slots):
            logits = self.run_again(store, slots, ahead=ahead)
            store.forget(slots)
        return logits

    def run_again(self, store: CellStore, slots: Tensor, *, ahead: bool = False) -> Tensor:
        """Do as `rerun` does, for a caller that puts the rows back."""
        for part in self._passes(store.position[slots]):
            logits = self.over(PassCache(store, compact(slots[part]), ahead_of=slots if ahead else None))
        return logits[-1]

    def deviation(self, store: CellStore, slots: Tensor, layer: int) -> Tensor:
        """Measure what `rerun` would change in K and V at `layer`, as a Euclidean norm: [cells]. Changes nothing."""
        norms = []
        with restored(store, slots, below=layer):
            for part in self._passes(store.position[slots]):
                cache = PassCache(store, compact(slots[part]), stop_at=layer)
                with suppress(PassStopped):
                    self.over(cache)
                norms.append(cache.distance())
        return torch.cat(norms)


@contextmanager
def restored(store: CellStore, slots: Tensor, below: int | None = None) -> Iterator[None]:
    """Put the rows of these slots back after the block; with `below`, those of the layers before it."""
    where = compact(slots)
    before = store.read(where, below)
    try:
        yield
    finally:
        store.write(where, before)


@contextmanager
def restored_on_error(store: CellStore, slots: Tensor) -> Iterator[None]:
    """Put the rows of these slots back if the block raises."""
    where = compact(slots)
    before = store.read(where)
    try:
        yield
    except BaseException:
        store.write(where, before)
        raise


def _mask(store: CellStore, slots: Slots, layer: int, ahead_of: Tensor | None = None) -> Tensor | None:
    """Return an additive mask [1, 1, tokens, rows in use] of a layer: a token sees the cells within reach; with
    `ahead_of`, those in all other slots that it is within reach of as well.

    NOTE: None where SDPA's own choice is the same and quicker: nothing to hide from a single token, or all cells in
    this pass, in order, so that its causal kernel applies.
    """
    reach, device = store.layout.layers[layer].reach, store.layout.layers[layer].device
    held, positions = store.held(layer), store.position[slots]
    first, last = store.order()[0][[0, -1]]
    if not bool(reach.hides(last[None], first[None])):
        if isinstance(store.at(layer, slots), slice) and len(positions) == len(held):
            return None
        if len(positions) == 1 and bool(held.max() <= positions[0]):
            return None
    held, positions = held.to(device), positions.to(device)
    hidden = reach.hides(positions, held)
    if ahead_of is not None:
        others = held != EMPTY
        others[on_device(store.at(layer, ahead_of), device)] = False
        hidden &= ~others | reach.hides(held, positions).T
    mask = torch.zeros(hidden.shape, dtype=store.layout.dtype, device=device)
    return mask.masked_fill_(hidden, float("-inf"))[None, None]
