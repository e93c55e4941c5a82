"""Which of the engines over llama.cpp runs a GGUF model: by its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kv_memory.engines.base import ConfigCheck, Engine
from kv_memory.engines.checkpoints import CheckpointSettings, refuse_checkpoints
from kv_memory.engines.llama_cpp.engine import LlamaCppEngine
from kv_memory.engines.llama_cpp.model import Model, open_model
from kv_memory.engines.llama_cpp.recurrent import LlamaCppRecurrentEngine
from kv_memory.errors import ModelError


def load_engine(
    path: str | Path,
    *,
    device: str | None = None,
    check: ConfigCheck = lambda config: None,
    checkpoints: CheckpointSettings | None = None,
    **settings: Any,
) -> Engine:
    """Load a .gguf file into the engine for its layers, with the settings of that engine.

    Raises what that raises, and ModelError for `checkpoints` where no layer is recurrent, and for `editable_tokens`.
    """
    if "editable_tokens" in settings:
        raise ModelError("A GGUF model keeps all cells of its windows; leave out editable_tokens.")
    model = open_model(path, device, check)
    if model.recurrent:
        return LlamaCppRecurrentEngine(model, checkpoints=checkpoints, **settings)
    refuse_checkpoints(path, checkpoints)
    return LlamaCppEngine(model, **settings)


def engine_of(llama: Any) -> Engine:
    """Return the engine for the layers of a loaded `llama_cpp.Llama`. Raises what its class raises."""
    return LlamaCppRecurrentEngine.over(llama) if Model.of(llama).recurrent else LlamaCppEngine.over(llama)
