"""LoRA adapters of an engine's model: loaded beside the weights, off but for one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kv_memory.engines.adapter_check import check_adapter
from kv_memory.errors import ModelError


class Adapters:
    """The PEFT layers of a model. All adapters are off outside of `on`, those that the model came with included."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        """The model itself; where a PeftModel wraps it, the one inside."""
        self._layers: list[Any] = []
        if hasattr(model, "peft_config"):
            self._find_layers()

    def load(self, path: str, name: str) -> None:
        """Load an adapter saved by PEFT. Raises ModelError for a path that holds none, or one for another model."""
        check_adapter(self.base, path)
        try:
            # NOTE: PEFT and transformers warn of each other's old names, and of a second adapter, no mistake here.
            with warnings.catch_warnings(action="ignore"):
                self._model.load_adapter(path, adapter_name=name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(
                f"Cannot load {path!r} as an adapter ({reason}); give a directory saved with PEFT's save_pretrained."
            ) from error
        self._find_layers()

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Switch this adapter on, alone, for the block. Raises ValueError for a name that is not loaded."""
        loaded = sorted({known for layer in self._layers for known in getattr(layer, "lora_A", ())})
        if name not in loaded:
            raise ValueError(f"no adapter {name!r} is loaded; loaded: {', '.join(loaded) or 'none'}")
        try:
            for layer in self._layers:
                layer.set_adapter(name, inference_mode=True)
                layer.enable_adapters(True)
            yield
        finally:
            self._switch_off()

    def _find_layers(self) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._layers = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        self._switch_off()

    def _switch_off(self) -> None:
        for layer in self._layers:
            layer.enable_adapters(False)
