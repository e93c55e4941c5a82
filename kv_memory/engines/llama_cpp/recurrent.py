"""The engine over llama.cpp for GGUF models with recurrent layers: mamba, gated delta-net, short convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kv_memory.engines.base import ConfigCheck, SequenceId
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.checks import check_appended
from kv_memory.engines.llama_cpp.context import SPARE, Context
from kv_memory.engines.llama_cpp.exclusive import exclusive
from kv_memory.engines.llama_cpp.llama_object import settings_of
from kv_memory.engines.llama_cpp.model import Model, open_model
from kv_memory.engines.llama_cpp.options import checked_rope, kv_type
from kv_memory.engines.llama_cpp.recurrent_cells import Held, RecurrentCells, SavedState
from kv_memory.engines.llama_cpp.rows import TYPES
from kv_memory.engines.llama_cpp.vocabulary import tokenizer_of
from kv_memory.engines.parts import ProbeLayers
from kv_memory.engines.recurrent import CheckpointEngine
from kv_memory.engines.threads import wait_passively
from kv_memory.errors import ModelError, UnsupportedModelError, UnsupportedOperationError

_TRIED = 256
"""Cells of the context in which a model is tried."""


class LlamaCppRecurrentEngine(CheckpointEngine[Held, SavedState]):
    """A GGUF model in which some layers keep one running state of all tokens; see CheckpointEngine.

    One sequence is in the context at a time; the others are kept outside of it.
    """

    def __init__(
        self,
        model: Model,
        *,
        name: str | None = None,
        context_length: int | None = None,
        dtype: str | None = None,
        flash_attention: bool | None = None,
        threads: int | None = None,
        rope: Mapping[str, float] | None = None,
        chat_template: str | None = None,
        probe_layers: ProbeLayers = None,
        checkpoints: CheckpointSettings | None = None,
    ) -> None:
        """Create an engine for a loaded model, with the settings of LlamaCppEngine. `checkpoints`: their memory.

        Raises UnsupportedModelError where no layer is recurrent, the model does not go on from a state that was kept,
        or it has sliding windows too; UnsupportedOperationError for `probe_layers`; ModelError as LlamaCppEngine, for a
        budget below one checkpoint and for a device of checkpoints.
        """
        wait_passively()
        super().__init__(
            name or str(model.known.get("model") or model.path),
            "its recurrent layers keep one running state of all tokens",
            probe_layers,
        )
        if not model.recurrent:
            raise UnsupportedModelError(
                f"This {model.architecture} model has no recurrent layers; open it with Memory(path) or LlamaCppEngine."
            )
        if checkpoints is not None and checkpoints.device not in (None, "cpu"):
            raise ModelError(f"Checkpoints of GGUF models are kept on the CPU, not on {checkpoints.device}.")
        if model.window:
            raise UnsupportedModelError(
                f"This {model.architecture} model has sliding windows beside recurrent layers, of which llama.cpp "
                "keeps no whole state; use its transformers directory."
            )
        rotary = checked_rope(rope)
        limit = model.context_length(context_length, stretched=bool(rotary))
        kind = kv_type(dtype or "float16")
        self._model = model

        def context(cells: int, cell_bytes: int) -> Context:
            return Context(
                model,
                cells=cells,
                threads=threads,
                kv_type=kind,
                flash_attention=flash_attention,
                rope=rotary,
                homes=1,
                cell_bytes=cell_bytes,
            )

        tried = context(_TRIED, 0)
        found = RecurrentCells(tried).measured()
        tried.close()
        self._cells = RecurrentCells(context(limit + SPARE, found.cell))
        self.config = model.config()
        self.tokenizer = tokenizer_of(model, chat_template)
        self.max_positions = limit
        self.kv_dtype = str(TYPES[kind]).removeprefix("torch.")
        self._keep_within(checkpoints, found.state)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | None = None,
        check: ConfigCheck = lambda config: None,
        **settings: Any,
    ) -> LlamaCppRecurrentEngine:
        """Load a .gguf file, with the settings of the class. Raises as LlamaCppEngine.load."""
        return cls(open_model(path, device, check), **settings)

    @classmethod
    def over(cls, llama: Any, **settings: Any) -> LlamaCppRecurrentEngine:
        """Create an engine over a loaded `llama_cpp.Llama`; see LlamaCppEngine.over."""
        made_with = settings_of(llama, settings.get("chat_template"))
        return cls(Model.of(llama), **{**made_with, **settings})

    def weights_digest(self) -> str | None:
        """See Engine.weights_digest."""
        return self._model.known.get("weights")

    def prefill(
        self,
        seq: SequenceId,
        ids: Sequence[int],
        positions: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append tokens, in chunks. Raises ValueError for ids or positions that cannot be appended,
        UnsupportedOperationError for positions that are not right after the last cell's."""
        end = self.next_position(seq)
        if positions is not None and list(positions) != list(range(end, end + len(ids))):
            check_appended(ids, positions, end, self._vocabulary)
            raise UnsupportedOperationError(
                f"llama.cpp appends tokens to {self.name} right after the last one, at position {end}; leave out the "
                "positions."
            )
        super().prefill(seq, ids, None, progress)

    @property
    def _vocabulary(self) -> int:
        return self._model.vocabulary_size

    def _new(self) -> Held:
        return Held()

    @exclusive
    def _copied(self, cache: Held) -> Held:
        return self._cells.copy(cache)

    @exclusive
    def _saved(self, cache: Held, logits: Tensor) -> SavedState:
        return self._cells.save(cache, logits)

    @exclusive
    def _cut(self, cache: Held, saved: SavedState, cells: int) -> Held:
        return self._cells.cut(cache, saved, cells)

    def _step(self, ran: int, wanted: int) -> int:
        return wanted

    @exclusive
    def _pass(self, cache: Held, tokens: Sequence[int], positions: Sequence[int], ran: int, keep: int = 1) -> Tensor:
        return self._cells.run(cache, tokens, keep or len(tokens))
