"""The engine for Hugging Face causal language models with recurrent layers: gated delta-net, mamba, convolution."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from kv_memory.engines.base import FREE_ON_GPU, ConfigCheck, Sampling, SequenceId, Token
from kv_memory.engines.checkpoints import NEAR, Checkpoints, CheckpointSettings
from kv_memory.engines.checks import check_appended, check_fits
from kv_memory.engines.fingerprint import weights_digest
from kv_memory.engines.generation import generate
from kv_memory.engines.parts import PARTS, ProbeLayers, Scoring
from kv_memory.engines.threads import wait_passively
from kv_memory.engines.transformers.adapters import Adapters
from kv_memory.engines.transformers.loading import load_model, place_of
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
from kv_memory.errors import ModelError, UnsupportedOperationError


@dataclass
class _Sequence:
    cache: DynamicCache
    """State after the first `ran` cells."""
    positions: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    ran: int = 0
    """Number of cells that went through the model; the others run with what is appended next, or when they are asked
    for."""
    logits: Tensor | None = None
    """[vocabulary] after the last of the cells that ran; None where none did."""

    def below(self, position: int) -> int:
        """Return the number of cells at lower positions."""
        return bisect_left(self.positions, position)

    def end(self, cells: int | None = None) -> int:
        """Return the position after the first `cells` cells, by default all."""
        at = self.positions if cells is None else self.positions[:cells]
        return at[-1] + 1 if at else 0


class RecurrentEngine(Scoring):
    """Any causal language model of transformers in which some layers keep one running state of all tokens.

    Nothing can be taken out of such a state, so that the only eraser is `recompute`: the sequence goes back to the last
    checkpoint, a copy of the states, and the tokens run again from there. Checkpoints are kept where messages begin
    (`mark`), within a budget; see checkpoints.py. Attention layers keep the rows of the tokens before it.

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
        super().__init__()
        wait_passively()
        base = Adapters(model).base
        self.config = base.config.get_text_config(decoder=True).to_dict()
        self.name = name or str(getattr(base.config, "_name_or_path", "") or type(base).__name__)
        check_recurrent(base.config)
        kinds = " and ".join(recurrent_kinds(base.config))
        layers = f"its layers of type {kinds} keep one running state of all tokens"
        if probe_layers:
            raise UnsupportedOperationError(
                f"No probe layers can be chosen for {self.name}: {layers}, so that it has no influence; leave out the "
                "probe layers, or the calibration that names them."
            )
        self.ruled_out = {
            capability: f"{layers}, out of which nothing can be taken"
            for capability in PARTS
            if not isinstance(self, PARTS[capability][0])
        }
        self._forward = RecurrentForward(base)
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._created = 0
        ends = getattr(base.generation_config, "eos_token_id", None)
        self.tokenizer = HFTokenizer(tokenizer, [ends] if isinstance(ends, int) else ends or ())
        self.max_positions = self._limit(base.config, context_length)
        self.kv_dtype = str(base.dtype).removeprefix("torch.")
        self.free_tokens = FREE_ON_GPU if self._forward.device.type == "cuda" else 1
        settings = checkpoints or CheckpointSettings()
        size = self._forward.state_size
        if 0 < settings.megabytes * 1e6 < size:
            raise ModelError(
                f"One checkpoint of {self.name} takes {size / 1e6:.3g} MB, more than the {settings.megabytes:g} MB for "
                "all; raise checkpoint_mb, or give 0 to keep none."
            )
        self._device = place_of(settings.device) if settings.device else None
        self.checkpoints: Checkpoints[SavedState] = Checkpoints(
            settings.megabytes * 1e6, self.next_position, max(NEAR, self.free_tokens)
        )

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

    def create(self) -> SequenceId:
        """Create an empty sequence."""
        return self._add(_Sequence(new_cache(self._forward.config)))

    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its memory; checkpoints that forks share stay."""
        self._get(seq)
        del self._sequences[seq]
        self.checkpoints.free(seq)

    @torch.inference_mode()
    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """Copy the cells at positions below `end` (default: all) to a new sequence, which shares the checkpoints."""
        source = self._get(seq)
        cells = len(source.tokens) if end is None else source.below(end)
        state = _Sequence(source.cache, source.positions[:cells], source.tokens[:cells], source.ran, source.logits)
        new = self._add(state)
        self.checkpoints.fork(seq, new)
        self.checkpoints.cut(new, state.end())
        if cells < source.ran:
            self._go_back(new, cells)
        else:
            state.cache = copied_cache(source.cache)
        return new

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Return the position and token id of each cell, positions ascending."""
        state = self._get(seq)
        return list(zip(state.positions, state.tokens, strict=True))

    def next_position(self, seq: SequenceId) -> int:
        """Return the position after the last cell's; 0 when empty."""
        return self._get(seq).end()

    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on.

        Those between the last checkpoint and `start` run again, with what is appended next.
        """
        state = self._get(seq)
        cells = state.below(start)
        if cells == len(state.tokens):
            return
        del state.positions[cells:], state.tokens[cells:]
        self.checkpoints.cut(seq, start)
        if cells < state.ran:
            self._go_back(seq, cells)

    def replayed_from(self, seq: SequenceId, start: int) -> int:
        """Return the position of the first token that runs again once the sequence is truncated at `start`."""
        state = self._get(seq)
        if state.below(start) < state.ran:
            kept = self.checkpoints.before(seq, start)
            return kept.position if kept is not None else 0
        return min(start, state.positions[state.ran]) if state.ran < len(state.positions) else start

    def mark(self, seq: SequenceId, positions: Sequence[int]) -> None:
        """Have checkpoints kept at these positions, while the budget allows it."""
        self._get(seq)
        self.checkpoints.mark(seq, positions)

    def marks(self, seq: SequenceId) -> list[int]:
        """Return the positions that were marked, ascending."""
        self._get(seq)
        return self.checkpoints.marks(seq)

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
        before, start = len(state.tokens), state.end()
        at = range(start, start + len(ids)) if positions is None else positions
        check_appended(ids, at, start, self._forward.vocabulary)
        check_fits(self.name, self.max_positions, max(at) + 1)
        state.positions += at
        state.tokens += ids
        try:
            self._run(seq, lambda done: progress(max(0, done - before)) if progress is not None else None)
        except BaseException:
            self.truncate(seq, state.positions[before])
            raise

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        """Continue the sequence. Raises ValueError for an empty one, and for settings that are out of range."""
        self.next_logits(seq)
        self.mark(seq, [self.next_position(seq)])  # what a stop string cuts off is cut back to here
        return generate(self, seq, self.next_logits, sampling, cancelled)

    def next_logits(self, seq: SequenceId) -> Tensor:
        """Return the logits [vocabulary] after the last cell; no cell is changed."""
        state = self._get(seq)
        if not state.tokens:
            raise ValueError("an empty sequence has no next token; prefill it first")
        self._run(seq)
        assert state.logits is not None, "at least one cell ran"
        return state.logits

    @torch.inference_mode()
    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Compute the log-probabilities [len(ids), vocabulary] before each of `ids`, float32."""
        state = self._get(seq)
        first, end = self.next_logits(seq), state.end()
        seen = list(ids[:-1])  # nothing is asked about what follows the last
        at = list(range(end, end + len(seen)))
        check_appended(seen, at, end, self._forward.vocabulary)
        check_fits(self.name, self.max_positions, end + len(seen))
        cache, ran = copied_cache(state.cache), state.ran
        rest = []
        while seen:
            count = self._forward.step(ran, len(seen))
            rest.append(self._forward(cache, seen[:count], at[:count], ran, keep=0))
            seen, at, ran = seen[count:], at[count:], ran + count
        return torch.cat([first[None], *rest]).float().log_softmax(-1)[: len(ids)]

    @torch.inference_mode()
    def _run(self, seq: SequenceId, progress: Callable[[int], object] = lambda done: None) -> None:
        """Run the cells that did not run yet, in passes that end where a checkpoint is due.

        `progress` is called with the number of cells that ran. On an exception the state is that of a checkpoint.
        """
        state = self._get(seq)
        self._keep(seq)
        while state.ran < len(state.tokens):
            due = state.below(self.checkpoints.next_due(seq, state.end(state.ran)))
            count = self._forward.step(state.ran, max(due, state.ran + 1) - state.ran)
            part = slice(state.ran, state.ran + count)
            try:
                tokens, positions = state.tokens[part], state.positions[part]
                state.logits = self._forward(state.cache, tokens, positions, state.ran)[-1]
            except BaseException:
                self._go_back(seq, state.ran)  # some layers may have gone on and others not
                raise
            state.ran += len(tokens)
            self._keep(seq)
            progress(state.ran)

    def _keep(self, seq: SequenceId) -> None:
        """Keep a checkpoint where one is due."""
        state = self._get(seq)
        end = state.end(state.ran)
        if state.logits is not None and self.checkpoints.due(seq, end):
            saved = saved_state(state.cache, state.logits, self._device)
            self.checkpoints.keep(seq, end, saved, saved.size)

    @torch.inference_mode()
    def _go_back(self, seq: SequenceId, cells: int) -> None:
        """Set the state to that of the last checkpoint within the first `cells` cells."""
        state = self._get(seq)
        kept = self.checkpoints.before(seq, state.end(cells))
        if kept is None:
            state.cache, state.ran, state.logits = new_cache(self._forward.config), 0, None
            return
        state.ran = state.below(kept.position)
        state.cache = cut_cache(state.cache, kept.state, state.ran)
        state.logits = kept.state.logits.to(self._forward.device)

    def _limit(self, config: Any, wanted: int | None) -> int:
        """Return the longest sequence. Raises ModelError where nobody says it, and beyond what the model can take."""
        if hasattr(self._forward.config, "max_position_embeddings"):
            return context_limit(config, wanted)
        if wanted is None:
            raise ModelError(f"{self.name} does not say how long a context it takes; give context_length.")
        return wanted

    def _add(self, state: _Sequence) -> SequenceId:
        self._created += 1
        self._sequences[self._created] = state
        return self._created

    def _get(self, seq: SequenceId) -> _Sequence:
        if seq not in self._sequences:
            raise ValueError(f"there is no sequence {seq}")
        return self._sequences[seq]
