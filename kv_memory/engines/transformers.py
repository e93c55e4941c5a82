"""The engine for Hugging Face causal language models with full attention in every layer, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import EosTokenCriteria

from kv_memory.engines.adapters import Adapters
from kv_memory.engines.attention_mass import attention_mass
from kv_memory.engines.base import Capabilities, Cells, Engine, Interval, Sampling, SequenceId, Token
from kv_memory.engines.cells import CellStore, Rows, Slots, compact
from kv_memory.engines.forward import Forward, PassCache, PassStopped
from kv_memory.engines.generation import Sampler, generate
from kv_memory.engines.hf_tokenizer import HFTokenizer
from kv_memory.engines.loading import load_model
from kv_memory.engines.probe import check_layer_types, context_limit, layout_of, run_probe
from kv_memory.engines.rotary import rotation_of
from kv_memory.engines.text_stream import TextStream
from kv_memory.errors import ContextLengthError, UnsupportedOperationError

_PROBE_POSITIONS = 3, 29
"""Where construction runs a lone token to see how keys depend on the position."""


@dataclass
class _Sequence:
    store: CellStore
    logits: Tensor | None = None
    """[vocabulary] after the last cell; None where an edit made them stale."""


class TransformersEngine(Engine):
    """Any causal language model of transformers whose layers all have full attention.

    The model is put in eval mode and the adapters that it has are switched off; its attention implementation is the
    engine's during a call only. Nobody else may run the model at the same time.

    `probe_layers`: the layers whose post-RoPE queries are kept beside K and V, for `influence`. The default is one
    layer at 3/8 of the depth (layer 3 of 8 was the best in our feasibility study). Each adds
    heads / (2 * layers * kv_heads) to the cache: for a Qwen3-8B shape (36 layers, 32 heads, 8 KV heads) 5.6 %. With ()
    none are kept and the engine lacks `influence`.

    Raises UnsupportedModelError where a layer's cache is not one K and one V row for each token, all visible to later
    ones: sliding window, chunked, linear or latent attention, state space, shared KV.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        probe_layers: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_layer_types(model.config)
        self._adapters = Adapters(model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # a PeftModel holds it inside
        self._forward = Forward(base)
        near, far = (run_probe(self._forward, position) for position in _PROBE_POSITIONS)
        depth = len(near.rows)
        self._layout = layout_of(near, (depth * 3 // 8,) if probe_layers is None else tuple(sorted(set(probe_layers))))
        self._scaling = near.scaling
        self._rotation = rotation_of(base, near, far, _PROBE_POSITIONS[1] - _PROBE_POSITIONS[0])
        # The mask of a pass has a row for each of its tokens: short passes keep it small.
        self._chunk = 2048 if self._forward.device.type == "cuda" else 512
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._created = 0

        ends = getattr(base.generation_config, "eos_token_id", None)
        self.tokenizer = HFTokenizer(tokenizer, [ends] if isinstance(ends, int) else ends or ())
        self.name = name or str(getattr(base.config, "_name_or_path", "") or type(base).__name__)
        self.capabilities = Capabilities(
            max_positions=context_limit(base.config),
            kv_dtype=str(self._layout.dtype).removeprefix("torch."),
            shift=self._rotation is not None,
            influence=bool(self._layout.probe_layers),
        )

    @classmethod
    def load(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        probe_layers: tuple[int, ...] | None = None,
    ) -> TransformersEngine:
        """An engine for a model directory or hub id; see loading.py for the choice of device and dtype.

        Raises ModelError where it is not a model or cannot be reached, UnsupportedModelError as the class says.
        """
        model, tokenizer = load_model(name, device, dtype)
        return cls(model, tokenizer, name=name, probe_layers=probe_layers)

    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA saved by PEFT, for `reencode(adapter=name)`; it stays off otherwise. Raises ModelError."""
        self._adapters.load(path, name)

    def create(self) -> SequenceId:
        """A new empty sequence."""
        return self._add(_Sequence(CellStore(self._layout, self.capabilities.max_positions)))

    def free(self, seq: SequenceId) -> None:
        """Forget a sequence and give its memory back."""
        self._get(seq)
        del self._sequences[seq]

    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """A copy of the cells at positions below `end` (all without it)."""
        source = self._get(seq)
        last = source.store.next_position
        whole = end is None or end >= last
        return self._add(_Sequence(source.store.copy(last if end is None else end), source.logits if whole else None))

    def positions(self, seq: SequenceId) -> list[int]:
        """The positions of the visible cells, ascending."""
        return _integers(self._get(seq).store.order()[0])

    def tokens(self, seq: SequenceId) -> list[int]:
        """The token ids of the visible cells, in the order of their positions."""
        store = self._get(seq).store
        return _integers(store.token[store.order()[1]])

    def next_position(self, seq: SequenceId) -> int:
        """One past the last cell; 0 when empty."""
        return self._get(seq).store.next_position

    def prefill(
        self,
        seq: SequenceId,
        ids: Sequence[int],
        positions: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append tokens, in chunks. Raises ValueError for ids or positions that cannot be appended."""
        if not ids:
            return
        state = self._get(seq)
        state.logits = self._append(state.store, ids, positions, 1, progress)[-1][-1]

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Token]:
        """Continue the sequence. Raises ValueError for an empty one, and for settings that are out of range."""
        return generate(self, seq, self.next_logits(seq), sampling, cancelled)
