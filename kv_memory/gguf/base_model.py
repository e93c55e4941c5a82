"""Which model a file is of: read from a directory of transformers, or from a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoConfig

from kv_memory.calibration.record import shape_of
from kv_memory.engines.fingerprint import digest_of, revision_of
from kv_memory.engines.transformers.loading import reading
from kv_memory.engines.transformers.probe import check_layer_types
from kv_memory.errors import ModelError
from kv_memory.gguf.architecture import config_of, skeleton
from kv_memory.gguf.checkpoint import Checkpoint
from kv_memory.pocket import model_path

MODEL_KEY = "kv_memory.model"
"""Metadata of a model: JSON with `model`, `revision`, `weights` and `shape`, as EraserRecord has them."""
ERASER_KEY = "kv_memory.eraser"
"""Metadata of an adapter: its EraserRecord as JSON, of the model and shape alone where the eraser had none."""


@dataclass(frozen=True)
class BaseModel:
    """What tells a model from others."""

    name: str
    """A hub id, the name of its folder or file, or `pocket`."""
    revision: str | None
    """Its commit on the hub, where that is known."""
    weights: str | None
    """As `Engine.weights_digest`; None where it is not known, as for GGUF files of another converter."""
    config: Any
    """Its text config; from a GGUF file, one of the same sizes."""

    @property
    def shape(self) -> dict[str, int | str]:
        """As calibration.record.shape_of."""
        return shape_of(self.config.to_dict())

    def as_json(self) -> str:
        """For MODEL_KEY."""
        known = {"model": self.name, "revision": self.revision, "weights": self.weights, "shape": self.shape}
        return json.dumps(known)


def read_base(path: Path) -> BaseModel:
    """The model of a directory or of a .gguf file; its weights are not read but for a few numbers of each parameter.

    Raises ModelError where it is none, UnsupportedModelError for layers that cannot be edited, and for a GGUF of
    another architecture than Qwen3, Qwen2 or Llama.
    """
    if path.is_file():
        return _of_gguf(path)
    config = read_config(path)
    names = [name for name, _ in skeleton(config).named_parameters()]
    return BaseModel(model_name(path), revision_at(path), digest_of(Checkpoint(path).heads(names)), config)


def read_config(folder: Path) -> Any:
    """The text config of a model directory. Raises as `read_base`."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model: it has no config.json; give a directory saved with save_pretrained."
        )
    with reading(str(folder)):
        config = AutoConfig.from_pretrained(folder)
        check_layer_types(config)
        return config.get_text_config(decoder=True)


def model_name(folder: Path) -> str:
    """The hub id where the folder is of the hub's cache (`models--owner--name/snapshots/commit`), else its name."""
    folder = folder.expanduser().resolve()
    if folder == model_path().resolve():
        return "pocket"
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def revision_at(folder: Path) -> str | None:
    """The commit of a folder of the hub's cache; None for others."""
    return revision_of(str(folder.expanduser().resolve()))


def _of_gguf(path: Path) -> BaseModel:
    try:
        fields = gguf.GGUFReader(path).fields
        metadata = {key: field.contents() for key, field in fields.items()}
        config = config_of(metadata)
        known = json.loads(metadata.get(MODEL_KEY, "{}"))
    except (IndexError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{path} is not a whole GGUF model ({reason}); copy or convert it again.") from error
    name = known.get("model") or metadata.get("general.name") or path.stem
    return BaseModel(name, known.get("revision"), known.get("weights"), config)
