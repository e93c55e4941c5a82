"""The trainable part of an eraser: a LoRA of the PEFT library, switched on and off, for all tokens or for some."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from kv_memory.engines.adapter_check import PROJECTIONS

NAME = "default"


class Adapter:
    """A LoRA on a model whose own weights are frozen. It is off unless switched on."""

    def __init__(self, model: Any, rank: int = 16, alpha: int = 32) -> None:
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(PROJECTIONS), bias="none")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers in a deprecated way
            self.model = get_peft_model(model, config)
        """Model with the adapter; its `base_model.model` is the given model."""
        self.layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        self.rows: Tensor | None = None
        for layer in self.layers:
            layer.lora_B[NAME].register_forward_hook(self._gate)
        self._enable(False)

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Switch the LoRA on or off for the block, for all tokens."""
        self._enable(on)
        try:
            yield
        finally:
            self._enable(False)

    @contextmanager
    def on_for(self, rows: Tensor) -> Iterator[None]:
        """Switch the LoRA on for the block, but only for the tokens of `rows` (bool [batch, tokens])."""
        self.rows = rows
        try:
            with self.switched(True):
                yield
        finally:
            self.rows = None

    def save(self, folder: Path, base: str) -> None:
        """Save the LoRA in PEFT's format; `base`: name of the model."""
        self.model.peft_config[NAME].base_model_name_or_path = base
        self.model.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Load weights saved by `save`, which must have the same rank."""
        set_peft_model_state_dict(self.model, load_peft_weights(str(folder), device=str(self.model.device)))

    def parameters(self) -> list[Any]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _gate(self, module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        return None if self.rows is None else output * self.rows[..., None].to(output.dtype)

    def _enable(self, on: bool) -> None:
        for layer in self.layers:
            layer._disable_adapters = not on  # enable_adapters() would freeze the parameters as well
