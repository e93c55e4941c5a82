"""Which of the engines over transformers runs a model: by its configuration, before its weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from kv_memory.engines.base import Engine
from kv_memory.engines.checkpoints import CheckpointSettings, refuse_checkpoints
from kv_memory.engines.transformers.engine import TransformersEngine
from kv_memory.engines.transformers.loading import checked_path, reading
from kv_memory.engines.transformers.recurrent import RecurrentEngine
from kv_memory.engines.transformers.recurrent_cache import recurrent_kinds
from kv_memory.errors import ModelError


def load_engine(path: str | Path, *, checkpoints: CheckpointSettings | None = None, **settings: Any) -> Engine:
    """Load a model directory or hub id into the engine for its layers, with the settings of that engine's `load`.

    Raises what that raises, and ModelError for `checkpoints` where no layer is recurrent, and for `editable_tokens`
    where one is.
    """
    name = checked_path(str(path))
    with reading(name):
        kinds = recurrent_kinds(AutoConfig.from_pretrained(name, trust_remote_code=False))
    if kinds and "editable_tokens" in settings:
        raise ModelError(f"{path} has recurrent layers, whose text is erased exactly alone; leave out editable_tokens.")
    if kinds:
        return RecurrentEngine.load(path, checkpoints=checkpoints, **settings)
    refuse_checkpoints(path, checkpoints)
    return TransformersEngine.load(path, **settings)


def engine_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Engine:
    """Return the engine for the layers of a loaded model. Raises what its class raises."""
    return RecurrentEngine(model, tokenizer) if recurrent_kinds(model.config) else TransformersEngine(model, tokenizer)
