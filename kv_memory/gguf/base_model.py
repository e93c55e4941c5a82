"""The identity of a model, read from a transformers directory or from a GGUF file."""

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
from kv_memory.engines.transformers.probe import reaches
from kv_memory.errors import ModelError, UnsupportedModelError
from kv_memory.gguf.architecture import config_of, skeleton
from kv_memory.gguf.checkpoint import Checkpoint
from kv_memory.pocket import model_path

MODEL_KEY = "kv_memory.model"
"""Metadata key of a model: JSON with `model`, `revision`, `weights` and `shape`, as EraserRecord has them."""
ERASER_KEY = "kv_memory.eraser"
"""Metadata key of an adapter: its EraserRecord as JSON; model and shape alone if the eraser had no record."""


@dataclass(frozen=True)
class BaseModel:
    """The name, revision, weights digest and config that identify a model."""

    name: str
    """Hub id, name of its folder or file, or `pocket`."""
    revision: str | None
    """Commit on the hub, if known."""
    weights: str | None
    """Digest of the weights, as `Engine.weights_digest`; None where unknown, as in GGUF files of other converters."""
    config: Any
    """Text config of the model; from a GGUF file, a config with the same sizes."""

    @property
    def shape(self) -> dict[str, int | str]:
        """Return the sizes that identify the model's shape; see `calibration.record.shape_of`."""
        return shape_of(self.config.to_dict())

    def as_json(self) -> str:
        """Return the metadata value for MODEL_KEY."""
        known = {"model": self.name, "revision": self.revision, "weights": self.weights, "shape": self.shape}
        return json.dumps(known)


def read_base(path: Path) -> BaseModel:
    """Read the identity of the model in a directory or .gguf file; of the weights only samples are read, for the
    digest.

    Raises ModelError where there is no model, UnsupportedModelError for layers that cannot be edited, and for a GGUF of
    another architecture than Qwen3, Qwen2 or Llama.
    """
    if path.is_file():
        return _of_gguf(path)
    config = read_config(path)
    names = [name for name, _ in skeleton(config).named_parameters()]
    return BaseModel(model_name(path), revision_at(path), digest_of(Checkpoint(path).heads(names)), config)


def read_config(folder: Path) -> Any:
    """Read the text config of a model directory. Raises as `read_base`."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model: it has no config.json; give a directory saved with save_pretrained."
        )
    with reading(str(folder)):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not all(reach.whole for reach in reaches(config)):
            raise UnsupportedModelError(
                f"The {config.model_type} model in {folder} has layers with a sliding window, which are not converted "
                "here; use llama.cpp's convert_hf_to_gguf.py."
            )
        return config.get_text_config(decoder=True)


def model_name(folder: Path) -> str:
    """Return the hub id if the folder is in the hub's cache (`models--owner--name/snapshots/commit`), else its name.

    The embedded model's name is `pocket`.
    """
    folder = folder.expanduser().resolve()
    if folder == model_path().resolve():
        return "pocket"
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def revision_at(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache; None for others."""
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
