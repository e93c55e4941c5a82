"""The engine for Hugging Face causal language models with attention in every layer, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kv_memory.engines.attention_mass import attention_score
from kv_memory.engines.base import FREE_ON_GPU, STEERED, Cells, ConfigCheck, Sampling, SequenceId, Token
from kv_memory.engines.cells import CellStore
from kv_memory.engines.checks import asked_about, check_appended, check_fits, check_move, check_tokens, integers
from kv_memory.engines.fingerprint import weights_digest
from kv_memory.engines.generation import generate
from kv_memory.engines.parts import (
    AdapterPass,
    AttentionScores,
    CellRows,
    Deviation,
    Normaliser,
    ProbeLayers,
    Scoring,
    unsupported,
)
from kv_memory.engines.threads import wait_passively
from kv_memory.engines.transformers.adapters import Adapters
from kv_memory.engines.transformers.forward import Forward, restored
from kv_memory.engines.transformers.loading import ends_of, load_model, name_of
from kv_memory.engines.transformers.probe import context_limit, layout_of, reaches, run_probe, unproven
from kv_memory.engines.transformers.rotary import rotation_of
from kv_memory.engines.transformers.snapshot import read_cells, write_cells
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import UnsupportedOperationError
from kv_memory.positions import Interval

_PROBE_POSITIONS = 3, 29
"""Positions at which construction runs a lone token, to see how keys depend on the position."""


@dataclass
class _Sequence:
    store: CellStore
    logits: Tensor | None = None
    """[vocabulary] after the last cell; None where they are not computed yet."""


class TransformersEngine(AdapterPass, CellRows, AttentionScores, Deviation, Scoring):
    """Any causal language model of transformers whose layers all have full attention.

    The model is put in eval mode and the adapters that it has are switched off; its attention implementation is the
    engine's during a call only. Nobody else may run the model at the same time.

    `probe_layers`: the layers whose post-RoPE queries are kept beside K and V, for `influence`, or "all". The default
    is one layer (`default_probe_layer`). Each adds heads / (2 * layers * kv_heads) to the cache: for a Qwen3-8B shape
    (36 layers, 32 heads, 8 KV heads) 5.6 %. With () none are kept and the engine lacks `influence`.

    `context_length`: longest sequence in tokens, by default what the model says.

    `editable_tokens`: number of last tokens of a sequence that can be edited in place; by default all can. With it,
    layers with a sliding window give back what they keep of a token once it is farther than that and the window from
    the end. Text before these tokens is then erased by `recompute` alone, which reads the sequence from its beginning,
    and no adapters can be used.

    Raises ModelError for a longer context and for `editable_tokens` of a model without such layers,
    UnsupportedModelError where a layer's cache is not two rows for each token: linear attention, state space, an index
    of the tokens to see, several tokens in one cell.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        context_length: int | None = None,
        probe_layers: ProbeLayers = None,
        editable_tokens: int | None = None,
    ) -> None:
        super().__init__()
        wait_passively()
        reach = reaches(model.config)
        self._adapters = Adapters(model)
        base = self._adapters.base
        self._forward = Forward(base)
        near, far = (run_probe(self._forward, position) for position in _PROBE_POSITIONS)
        self._layout = layout_of(near, reach, probe_layers, editable_tokens)
        self.probe_layers, self.probe_memory = self._layout.probe_layers, self._layout.probe_memory
        self.chunk = next((layer.reach.chunk for layer in self._layout.layers if layer.reach.chunk), None)
        self.unproven = unproven(model.config)
        self._scaling = near.scaling
        self.rotation = rotation_of(base, near, far, _PROBE_POSITIONS[1] - _PROBE_POSITIONS[0])
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._created = 0

        self.tokenizer = HFTokenizer(tokenizer, ends_of(base))
        self.name = name or name_of(base)
        self.config = self._forward.config.to_dict()
        self.max_positions = context_limit(base.config, context_length)
        self.kv_dtype = str(self._layout.dtype).removeprefix("torch.")
        self.free_tokens = FREE_ON_GPU if self._forward.device.type == "cuda" else 1
        if self.rotation is None:
            self.ruled_out["shift"] = "its keys cannot be moved, since how they turn with the position is not known"
        if editable_tokens is not None:
            self.ruled_out |= dict.fromkeys(("adapters", "ahead"), "with editable_tokens no steering state is kept")
        if not self.probe_layers:
            why = (
                "construct it with probe_layers"
                if probe_layers is not None
                else "none of its layers meets its own keys"
            )
            self.ruled_out["influence"] = f"it keeps no queries ({why})"

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        check: ConfigCheck = lambda config: None,
        **settings: Any,
    ) -> TransformersEngine:
        """Load a model directory or hub id, with the settings of the class; device and dtype: see loading.py.

        Raises ModelError where it is not a model or cannot be reached, UnsupportedModelError as the class says, and
        what `check` raises, which is given the model's configuration before the weights are read.
        """
        model, tokenizer = load_model(str(path), device, dtype, check)
        return cls(model, tokenizer, **settings | {"name": settings.get("name") or str(path)})

    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA saved by PEFT, for `reencode(adapter=name)`; it stays off otherwise. Raises ModelError."""
        self._adapters.load(path, name)

    def weights_digest(self) -> str | None:
        """See Engine.weights_digest."""
        return weights_digest(self._forward.model)

    def create(self) -> SequenceId:
        """Create an empty sequence."""
        return self._add(_Sequence(CellStore(self._layout, self.max_positions)))

    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its memory."""
        self._get(seq)
        del self._sequences[seq]

    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """Copy the cells at positions below `end` (default: all) to a new sequence."""
        source = self._get(seq)
        last = source.store.next_position
        if end is None or end >= last:
            return self._add(_Sequence(source.store.copy(last), source.logits))
        if self._editable(source.store, end):
            return self._add(_Sequence(source.store.copy(end)))
        return self._add(self._read_again(source.store, end))

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Return the position and token id of each visible cell, positions ascending; STEERED for a steering state."""
        return list(zip(self.positions(seq), self.tokens(seq), strict=True))

    def positions(self, seq: SequenceId) -> list[int]:
        """Return the positions of the visible cells, ascending."""
        return integers(self._get(seq).store.order()[0])

    def tokens(self, seq: SequenceId) -> list[int]:
        """Return the token ids of the visible cells, in the order of their positions; STEERED for a steering state."""
        store = self._get(seq).store
        return integers(store.token[store.order()[1]])

    def next_position(self, seq: SequenceId) -> int:
        """Return the position after the last cell's; 0 when empty."""
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
        start = state.store.next_position
        at = range(start, start + len(ids)) if positions is None else positions
        self._check_appended(ids, at, start)
        state.logits = self._forward.append(state.store, ids, at, progress=progress)[-1][-1]
        state.store.give_back()

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        """Continue the sequence. Raises ValueError for an empty one, and for settings that are out of range."""
        self.next_logits(seq)
        return generate(self, seq, self.next_logits, sampling, cancelled)

    def next_logits(self, seq: SequenceId) -> Tensor:
        """Return the logits [vocabulary] after the last cell, recomputed after an edit; no cell is changed."""
        state = self._get(seq)
        if state.logits is None:
            slots = state.store.order()[1][-1:]
            if not len(slots):
                raise ValueError("an empty sequence has no next token; prefill it first")
            check_tokens(state.store, slots)
            with restored(state.store, slots):
                state.logits = self._forward.run_again(state.store, slots)
        return state.logits

    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Compute the log-probabilities [len(ids), vocabulary] before each of `ids`, float32."""
        store = self._get(seq).store
        first, end = self.next_logits(seq), store.next_position
        seen = ids[:-1]  # nothing is asked about what follows the last
        at = range(end, end + len(seen))
        self._check_appended(seen, at, end)
        try:
            rest = self._forward.append(store, seen, at, keep=0)
        finally:
            store.release(store.between(end))
        return torch.cat([first[None], *rest]).float().log_softmax(-1)[: len(ids)]

    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on; those before it are prefilled again if they cannot be gone on
        from."""
        state = self._get(seq)
        if start >= state.store.next_position or self._editable(state.store, start):
            self._remove(state, state.store.between(start))
        else:
            self._sequences[seq] = self._read_again(state.store, start)

    def editable_from(self, seq: SequenceId) -> int:
        """See Engine.editable_from."""
        return self._get(seq).store.editable_from

    def replayed_from(self, seq: SequenceId, start: int) -> int:
        """See Engine.replayed_from."""
        return start if self._editable(self._get(seq).store, start) else 0

    def drop(self, seq: SequenceId, start: int, end: int) -> None:
        """Remove the cells at positions [start, end) and wipe their rows, kept queries included."""
        self._remove(self._get(seq), self._get(seq).store.find(range(start, end)))

    def shift(self, seq: SequenceId, start: int, delta: int) -> None:
        """Move the cells from `start` on by `delta`, re-rotating their keys and kept queries.

        Raises ValueError where they would run into the cells before `start`, ContextLengthError beyond the context.
        """
        if self.rotation is None:
            raise unsupported(self, "shift")
        state = self._get(seq)
        store, slots = state.store, state.store.between(start)
        if not len(slots) or delta == 0:
            return
        check_move(store, start, delta)
        self._check_editable(store, start)
        self._check_fits(store.next_position + delta)
        self.rotation.move(store, slots, delta)
        state.logits = None

    def reencode(
        self, seq: SequenceId, positions: Sequence[int], adapter: str | None = None, *, ahead: bool = False
    ) -> None:
        """Recompute the rows of these cells from their tokens; see AdapterPass.reencode."""
        state = self._get(seq)
        slots = state.store.find(sorted(set(positions)))
        if not len(slots):
            return
        check_tokens(state.store, slots)
        self._check_editable(state.store, int(state.store.position[slots[0]]))
        with self._adapters.on(adapter) if adapter else nullcontext():
            logits = self._forward.rerun(state.store, slots, ahead=ahead)
        at_end = int(state.store.position[slots[-1]]) == state.store.next_position - 1
        state.logits = logits if at_end and adapter is None else None
        if adapter is not None:
            state.store.token[slots] = STEERED

    def influence(
        self,
        seq: SequenceId,
        spans: Sequence[Interval],
        *,
        layers: Sequence[int] | None = None,
        normaliser: Normaliser = "softmax",
    ) -> tuple[list[int], Tensor]:
        """Measure the later cells' attention to the spans' cells. Raises ValueError for a layer without queries."""
        kept = self.probe_layers
        if not kept:
            raise unsupported(self, "influence")
        chosen = kept if layers is None else tuple(layers)
        if not chosen or not set(chosen) <= set(kept):
            raise ValueError(f"queries are kept of layers {list(kept)}, not of {list(chosen)}")
        store = self._get(seq).store
        later, erased = asked_about(store, spans)
        scores = [
            attention_score(store, i, later, erased, scaling=self._scaling[i], normaliser=normaliser) for i in chosen
        ]
        return integers(store.position[later]), torch.stack([score.to(self._layout.devices[0]) for score in scores])

    def deviation(self, seq: SequenceId, positions: Sequence[int], layer: int = 1) -> Tensor:
        """Measure how far K and V together, at `layer`, are from what `reencode` would write: float32 [positions]."""
        depth = len(self._layout.layers)
        if not 0 <= layer < depth:
            raise ValueError(f"layer {layer} is not one of the model's {depth}")
        if not self._layout.layers[layer].kv_heads:
            raise ValueError(f"layer {layer} uses the K and V of another one; ask for a layer that has its own")
        store = self._get(seq).store
        wanted, inverse = torch.unique(torch.tensor(list(positions), dtype=torch.int64), return_inverse=True)
        if not len(wanted):
            return torch.zeros(0)
        slots = store.find(integers(wanted))
        check_tokens(store, slots)
        self._check_editable(store, int(wanted[0]))
        norms = self._forward.deviation(store, slots, layer)
        return norms[inverse.to(norms.device)]

    def read_cells(self, seq: SequenceId, positions: Sequence[int]) -> Cells:
        """Copy these cells, in position order."""
        return read_cells(self._get(seq).store, positions)

    def write_cells(self, seq: SequenceId, cells: Cells) -> None:
        """Put cells back. Raises ValueError for another model's cells, ContextLengthError beyond the context."""
        state = self._get(seq)
        self._check_fits(max(cells.positions, default=-1) + 1)
        write_cells(state.store, cells)
        state.logits = None

    def _add(self, state: _Sequence) -> SequenceId:
        self._created += 1
        self._sequences[self._created] = state
        return self._created

    def _get(self, seq: SequenceId) -> _Sequence:
        if seq not in self._sequences:
            raise ValueError(f"there is no sequence {seq}")
        return self._sequences[seq]

    def _editable(self, store: CellStore, start: int) -> bool:
        return start == 0 or start >= store.editable_from

    def _check_editable(self, store: CellStore, start: int) -> None:
        if not self._editable(store, start):
            raise UnsupportedOperationError(
                f"Tokens before position {store.editable_from:,} cannot be edited in place: layers with a window gave "
                f"back what they kept of them (editable_tokens={self._layout.editable:,}); use 'recompute'."
            )

    def _read_again(self, store: CellStore, end: int) -> _Sequence:
        """Return a sequence of the tokens at positions below `end`, read from the beginning."""
        again = CellStore(self._layout, self.max_positions)
        slots = store.between(0, end)
        ids, positions = integers(store.token[slots]), integers(store.position[slots])
        logits = self._forward.append(again, ids, positions)[-1][-1] if ids else None
        again.give_back()
        return _Sequence(again, logits)

    def _remove(self, state: _Sequence, slots: Tensor) -> None:
        if len(slots):
            state.store.release(slots)
            state.logits = None

    def _check_appended(self, ids: Sequence[int], positions: Sequence[int], start: int) -> None:
        check_appended(ids, positions, start, self._forward.vocabulary)
        self._check_fits(max(positions, default=start - 1) + 1)

    def _check_fits(self, end: int) -> None:
        check_fits(self.name, self.max_positions, end)
