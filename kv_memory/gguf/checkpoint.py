"""The safetensors files of a model directory, read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kv_memory.engines.fingerprint import SAMPLE
from kv_memory.errors import ModelError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")


class Checkpoint:
    """The named tensors of a model directory, in one or several files."""

    def __init__(self, folder: Path) -> None:
        """Raise ModelError where there are no weights, or they cannot be read."""
        self.folder = folder
        index = folder / _INDEX
        with self._reading():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [_SINGLE]
            if not (folder / names[0]).is_file():
                raise ModelError(f"{folder} has no weights: no {names[0]}; save the model with save_pretrained.")
            self.files = [folder / name for name in names]
            opened: list[Any] = [safe_open(path, "pt") for path in self.files]
            self._where = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise ModelError if one of these tensors is missing, has another shape, or is not stored in 16 or 32 bits."""
        for name, shape in shapes.items():
            if name not in self._where:
                raise ModelError(f"The weights of {self.folder} have no {name}; save the model with save_pretrained.")
            with self._reading():
                stored = self._where[name].get_slice(name)
                there, dtype = tuple(stored.get_shape()), stored.get_dtype()
            if there != shape:
                raise ModelError(
                    f"{name} in {self.folder} has the shape {list(there)} and config.json says {list(shape)}; save the "
                    "model again with save_pretrained."
                )
            if dtype not in _DTYPES:
                raise ModelError(f"{name} in {self.folder} is stored as {dtype}; give a model in 16 or 32 bits.")

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor, float32."""
        with self._reading():
            tensor: torch.Tensor = self._where[name].get_tensor(name)
            return tensor.float()

    def heads(self, names: Iterable[str]) -> Iterator[torch.Tensor]:
        """Yield the first numbers of each tensor, float32, at least as many as the weights digest samples."""
        for name in names:
            with self._reading():
                stored = self._where[name].get_slice(name)
                width = stored.get_shape()[-1]
                yield (stored[:SAMPLE] if width >= SAMPLE else stored[: SAMPLE * SAMPLE]).float()

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            yield
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"The weights of {self.folder} cannot be read ({reason}); copy them again.") from error
