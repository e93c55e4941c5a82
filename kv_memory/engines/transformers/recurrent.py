"""The engine for Hugging Face causal language models with recurrent layers: gated delta-net, mamba, convolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from kv_memory.engines.base import FREE_ON_GPU, ConfigCheck
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.fingerprint import weights_digest
from kv_memory.engines.parts import ProbeLayers
from kv_memory.engines.recurrent import CheckpointEngine
from kv_memory.engines.threads import wait_passively
from kv_memory.engines.transformers.adapters import Adapters
from kv_memory.engines.transformers.loading import ends_of, load_model, name_of, place_of
from kv_memory.engines.transformers.probe import context_limit
from kv_memory.engines.transformers.recurrent_cache import (
    SavedState,
    check_recurrent,
    copied_cache,
    cut_cache,
    new_cache,
    recurrent_kinds,
    saved_state,
)
from kv_memory.engines.transformers.recurrent_forward import RecurrentForward
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import ModelError


class RecurrentEngine(CheckpointEngine[DynamicCache, SavedState]):
    """Any causal language model of transformers in which some layers keep one running state; see CheckpointEngine.

    The model is put in eval mode and the adapters that it has are switched off; nobody else may run it at the same
    time. `checkpoints`: their memory and device. `context_length`: longest sequence in tokens, by default what the
    model says.

    Raises ModelError for a longer one and for a budget below one checkpoint, UnsupportedModelError where no layer is
    recurrent, another layer's cache cannot be cut, or the model does not go on from a state, UnsupportedOperationError
    for `probe_layers`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        context_length: int | None = None,
        probe_layers: ProbeLayers = None,
        checkpoints: CheckpointSettings | None = None,
    ) -> None:
        wait_passively()
        base = Adapters(model).base
        check_recurrent(base.config)
        kinds = " and ".join(recurrent_kinds(base.config))
        super().__init__(
            name or name_of(base),
            f"its layers of type {kinds} keep one running state of all tokens",
            probe_layers,
        )
        self.config = base.config.get_text_config(decoder=True).to_dict()
        self._forward = RecurrentForward(base)
        self.tokenizer = HFTokenizer(tokenizer, ends_of(base))
        self.max_positions = self._limit(base.config, context_length)
        self.kv_dtype = str(base.dtype).removeprefix("torch.")
        self.free_tokens = FREE_ON_GPU if self._forward.device.type == "cuda" else 1
        place = checkpoints.device if checkpoints else None
        self._device = place_of(place) if place else None
        self._keep_within(checkpoints, self._forward.state_size)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        check: ConfigCheck = lambda config: None,
        **settings: Any,
    ) -> RecurrentEngine:
        """Load a model directory or hub id, with the settings of the class; device and dtype: see loading.py.

        Raises ModelError where it is not a model or cannot be reached, UnsupportedModelError as the class says, and
        what `check` raises, which is given the model's configuration before the weights are read.
        """
        model, tokenizer = load_model(str(path), device, dtype, check, check_layers=check_recurrent)
        return cls(model, tokenizer, **settings | {"name": settings.get("name") or str(path)})

    def weights_digest(self) -> str | None:
        """See Engine.weights_digest."""
        return weights_digest(self._forward.model)

    def _limit(self, config: Any, wanted: int | None) -> int:
        """Return the longest sequence. Raises ModelError where nobody says it, and beyond what the model can take."""
        if hasattr(self._forward.config, "max_position_embeddings"):
            return context_limit(config, wanted)
        if wanted is None:
            raise ModelError(f"{self.name} does not say how long a context it takes; give context_length.")
        return wanted

    @property
    def _vocabulary(self) -> int:
        return self._forward.vocabulary

    def _new(self) -> DynamicCache:
        return new_cache(self._forward.config)

    def _copied(self, cache: DynamicCache) -> DynamicCache:
        return copied_cache(cache)

    def _saved(self, cache: DynamicCache, logits: Tensor) -> SavedState:
        return saved_state(cache, logits, self._device)

    def _cut(self, cache: DynamicCache, saved: SavedState, cells: int) -> DynamicCache:
        return cut_cache(cache, saved, cells)

    def _step(self, ran: int, wanted: int) -> int:
        return self._forward.step(ran, wanted)

    def _pass(
        self, cache: DynamicCache, tokens: Sequence[int], positions: Sequence[int], ran: int, keep: int = 1
    ) -> Tensor:
        return self._forward(cache, tokens, positions, ran, keep)

    def _logits(self, saved: SavedState) -> Tensor:
        return saved.logits.to(self._forward.device)
