"""Forward passes of a model with recurrent layers over its own cache, and whether it goes on from a state at all."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kv_memory.engines.transformers.cache_argument import cache_argument
from kv_memory.engines.transformers.recurrent_cache import copied_cache, new_cache, saved_state, without_states
from kv_memory.errors import UnsupportedModelError

_BEFORE, _ALL = 6, 13
"""Tokens of the passes that try whether a model goes on from a state: longer than a convolution's kernel."""
_STATES = "conv_states", "recurrent_states"
_ROUNDING = 0.5
"""Largest distance from the logits of one pass that counts as rounding, as a share of what the states of one kind make:
a model that ignores them is off by all of it."""


class RecurrentForward:
    """Forward passes of a model, in eval mode and without gradients.

    Raises UnsupportedModelError where the model does not go on from the state of an earlier pass.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.config = model.config.get_text_config(decoder=True)
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.vocabulary: int = model.get_input_embeddings().num_embeddings
        self._cache_argument = cache_argument(model)
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        self._chunk = 2048 if self.device.type == "cuda" else 512
        self._goes_on = self._try()
        """Most tokens of a pass that starts from a state; NOTE: the code of some models, such as Jamba's, ignores the
        state in passes of several tokens."""

    def step(self, ran: int, wanted: int) -> int:
        """Return how many of `wanted` tokens to run in the next pass of a sequence of which `ran` tokens ran."""
        return min(wanted, self._goes_on if ran else self._chunk)

    @torch.inference_mode()
    def __call__(
        self, cache: DynamicCache, tokens: Sequence[int], positions: Sequence[int], ran: int, keep: int = 1
    ) -> Tensor:
        """Run these tokens after the `ran` that the cache holds; return logits [keep, or all with 0, vocabulary]."""
        given: dict[str, Any] = {"position_ids": torch.tensor([list(positions)], device=self.device)}
        if any(after != before + 1 for before, after in pairwise(positions)):
            # NOTE: without a mask, transformers takes a jump in positions for the start of another sequence.
            given["attention_mask"] = torch.ones(1, ran + len(tokens), dtype=torch.int64, device=self.device)
        given |= {"logits_to_keep": keep, self._cache_argument: cache, "use_cache": True}
        given = {name: value for name, value in given.items() if name in self._takes}
        logits: Tensor = self.model(input_ids=torch.tensor([list(tokens)], device=self.device), **given).logits[0]
        return logits[-keep:]

    def _try(self) -> int:
        """Return how many tokens a pass that starts from a state may have."""
        tokens = [token % self.vocabulary for token in range(1, _ALL + 1)]
        most = {self._chunk: [_ALL - _BEFORE], 1: [1] * (_ALL - _BEFORE)}
        try:
            whole = self._after(new_cache(self.config), tokens, [_ALL])[_BEFORE:]
            start = new_cache(self.config)
            logits = self._after(start, tokens, [_BEFORE])[-1]
            self.state_size = saved_state(start, logits, None).size
            """Bytes of a checkpoint."""
            forgot = [self._after(without_states(start, kind), tokens, most[1], _BEFORE) for kind in _STATES]
            went_on = {step: self._after(copied_cache(start), tokens, parts, _BEFORE) for step, parts in most.items()}
        except (
            AttributeError,
            IndexError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            reason = str(error).strip().split("\n")[0]
            raise UnsupportedModelError(
                f"This {self.config.model_type} model does not run on transformers' own cache ({reason}); {INSTEAD}."
            ) from error
        made = [float((logits - went_on[1]).abs().max()) for logits in forgot]
        for step, found in went_on.items():
            if float((found - whole).abs().max()) <= _ROUNDING * min((share for share in made if share), default=0.0):
                return step
        raise UnsupportedModelError(
            f"This {self.config.model_type} model does not go on from the state of an earlier pass as it would in one "
            f"pass; {INSTEAD}."
        )

    @torch.inference_mode()
    def _after(self, cache: DynamicCache, tokens: Sequence[int], parts: Sequence[int], ran: int = 0) -> Tensor:
        """Return the logits [tokens, vocabulary], float32, of the tokens from `ran` on, in passes of these lengths."""
        found = []
        for count in parts:
            found.append(self(cache, tokens[ran : ran + count], range(ran, ran + count), ran, keep=0))
            ran += count
        return torch.cat(found).float()


INSTEAD = "use Qwen3.5, Qwen3-Next, LFM2, Granite 4, Falcon-H1 or Nemotron-H, or a model with attention in every layer"
