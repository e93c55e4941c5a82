"""One forward pass of a transformers model over given cells: explicit positions, a mask by position, rows in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from kv_memory.engines.attention import recorded
from kv_memory.engines.cells import CellStore, Slots


class PassCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """What the model takes for its cache during one pass: new rows go to given slots, all slots in use come back."""

    def __init__(self, store: CellStore, slots: Slots, stop_at: int | None = None) -> None:
        super().__init__(layers=[])
        self.store = store
        self.slots = slots
        self.stop_at = stop_at
        """Layer at which the pass ends, its rows kept in `stopped_with` and not written; no queries are kept then."""
        self.stopped_with: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with K and V [1, kv_heads, tokens, head_dim]."""
        if layer_idx == self.stop_at:
            self.stopped_with = key_states, value_states
            raise PassStopped
        return self.store.put(layer_idx, self.slots, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots in use."""
        return self.store.used

    def record(self, module: nn.Module, query: Tensor, options: dict[str, Any]) -> None:
        """Keep the query of a probe layer."""
        if module.layer_idx in self.store.layout.probe_layers and self.stop_at is None:
            self.store.put_queries(int(module.layer_idx), self.slots, query)


class PassStopped(Exception):  # noqa: N818  # not an error: it ends a pass early, on purpose
    """The pass reached the layer at which it was to stop."""


class Forward:
    """Runs a model. Between passes the model attends as its owner set it; no gradients, eval mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.config = model.config.get_text_config(decoder=True)
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.vocabulary: int = model.get_input_embeddings().num_embeddings

    @torch.inference_mode()
    def __call__(self, cache: Any, tokens: Tensor, positions: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        """Logits [keep or all with 0, vocabulary] of these tokens (int64 [tokens])."""
        with recorded(self.config, cache):
            output = self.model(
                input_ids=tokens[None].to(self.device),
                position_ids=positions[None].to(self.device),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: Tensor = output.logits[0]
        return logits

    def over(self, cache: PassCache, keep: int = 1) -> Tensor:
        """Run the tokens of the cache's slots at their positions, ascending, over the cells visible to each."""
        store, slots = cache.store, cache.slots
        positions = store.position[slots]
        mask = _mask(store, slots, positions)
        if mask is not None:
            mask = mask.to(self.device)
        return self(cache, store.token[slots], positions, mask, keep)


def _mask(store: CellStore, slots: Slots, positions: Tensor) -> Tensor | None:
    """Additive [1, 1, tokens, slots in use]: a token sees the cells at positions up to its own.

    None where SDPA's own choice is the same and quicker: nothing to hide from a single token, or all cells in this
    pass, in order, so that its causal kernel applies.
    """
    held = store.position[: store.used]
    if isinstance(slots, slice) and len(positions) == len(held):
        return None
    if len(positions) == 1 and bool(held.max() <= positions[0]):
        return None
    hidden = held[None, :] > positions[:, None]
    return torch.zeros(hidden.shape, dtype=store.layout.dtype).masked_fill_(hidden, float("-inf"))[None, None]
