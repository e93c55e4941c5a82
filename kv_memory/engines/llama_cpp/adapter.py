"""A LoRA in GGUF, loaded beside a model; on only while `Context.adapted` says so."""

from __future__ import annotations

from pathlib import Path

from kv_memory.engines.llama_cpp.library import forget_errors, last_error, library
from kv_memory.engines.llama_cpp.model import Model, check_is_gguf
from kv_memory.errors import ModelError


class Adapter:
    """A loaded GGUF adapter. llama.cpp frees it with its model."""

    def __init__(self, model: Model, path: Path) -> None:
        """Load an adapter. Raises ModelError where it is no LoRA, or one for a model of other layers or sizes."""
        check_is_gguf(path)
        forget_errors()
        self._model = model  # which must outlive it
        self.pointer = library().llama_adapter_lora_init(model.pointer, str(path).encode())
        if not self.pointer:
            raise ModelError(
                f"The adapter {path} is not for this model ({last_error()}); use one that was trained for it."
            )
