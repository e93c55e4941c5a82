"""Trained erasers as files: a directory with a LoRA saved by PEFT and `eraser.json`, which says what it is for.

The published eraser (KVEraser, arXiv 2606.17034) is the LoRA alone, and loads too; so does a .gguf file, into GGUF
models. Nothing is loaded into an engine before all that the files say fits its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from kv_memory.calibration.record import Calibration, shape_of
from kv_memory.engines.adapter_check import WEIGHTS, read_adapter
from kv_memory.engines.base import Engine
from kv_memory.engines.fingerprint import revision_of
from kv_memory.engines.parts import AdapterPass, lacks
from kv_memory.engines.registry import is_gguf
from kv_memory.erasers import ERASERS
from kv_memory.erasers.steering import Steering, steer_with
from kv_memory.errors import ModelError, UnsupportedOperationError
from kv_memory.pocket import model_path
from kv_memory.trained.gguf_file import read_record
from kv_memory.trained.record import FILE, EraserRecord

POCKET = "pocket"
"""Name of the pocket model's trained eraser."""
CONFIG = "adapter_config.json"
BESIDE = "eraser"
"""Folder, in a model's directory, of the trained eraser that comes with the model."""


@dataclass(frozen=True)
class TrainedEraser:
    """A trained eraser on disk: its description is read, and nothing is loaded into an engine yet."""

    folder: Path
    """The eraser's directory or .gguf file."""
    record: EraserRecord | None
    """The eraser's record, from eraser.json or the GGUF metadata; None for a plain LoRA."""
    base: str | None
    """Path or hub id of the base model, as PEFT's config or a GGUF file's record has it; `revision` is its commit."""
    revision: str | None

    @property
    def calibration(self) -> Calibration | None:
        """Return the calibration of the base model with this eraser; None where it has none."""
        return self.record.calibration if self.record else None

    def check(self, name: str, config: Mapping[str, Any]) -> None:
        """Raise ModelError where the model of this name and configuration is not the one that the eraser was trained
        for."""
        if self.record is not None:
            here, there = shape_of(config), self.record.shape
            for key in {**there, **here}:
                if here.get(key) != there.get(key):
                    raise ModelError(
                        f"The eraser {self.folder} is for {self.record.model} ({key} {there.get(key)}) and {name} has "
                        f"{key} {here.get(key)}; use one that was trained for it."
                    )
        if (self.record is None or self.record.weights is None) and self.base and not _may_be_same(self.base, name):
            raise ModelError(f"The eraser {self.folder} is for {self.base}, not for {name}; use one trained for it.")

    def load(self, engine: Engine) -> Steering:
        """Load the eraser into this engine and let `steer` use it.

        Raises ModelError, with nothing loaded, where the eraser is for another model or needs what the engine lacks;
        UnsupportedOperationError where the engine loads no adapters.
        """
        if not isinstance(engine, AdapterPass):
            raise UnsupportedOperationError(
                f"The engine of {engine.name} loads no adapters; use another eraser than 'steer'."
            )
        self.check(engine.name, engine.config)
        self.check_revision(engine.name, revision_of(engine.name), engine.weights_digest())
        name = f"eraser-{uuid4().hex[:8]}"
        steering = self.record.steering(name) if self.record else Steering(name)
        if steering.sees_suffix and lacks(engine, "ahead"):
            raise ModelError(
                f"The slots of the eraser {self.folder} see what follows the span, which the engine of {engine.name} "
                "cannot show them; load the model with transformers, or use another eraser."
            )
        if steering.closes and lacks(engine, "shift"):
            raise ModelError(
                f"The eraser {self.folder} closes the gap behind its slots, and the keys of {engine.name} cannot be "
                "moved; use another eraser."
            )
        if steering.token is not None and lacks(engine, "rows"):
            raise ModelError(
                f"The slots of the eraser {self.folder} read another token, which needs the rows of the cells, and the "
                f"engine of {engine.name} gives none; use another eraser."
            )
        if engine.gguf_model is None or self.folder.is_file():
            engine.load_adapter(str(self.folder), name)
        else:
            with TemporaryDirectory() as folder:
                self.to_gguf(engine.gguf_model, converted := Path(folder) / "adapter.gguf")
                engine.load_adapter(str(converted), name)
        steer_with(engine, steering)
        return steering

    def to_gguf(self, base: Path, out: Path) -> None:
        """Write the eraser as a GGUF adapter for its base model, a directory or .gguf file. Raises as `export_adapter`
        does."""
        from kv_memory.gguf import read_base
        from kv_memory.trained.gguf_adapter import write_adapter

        model = read_base(base)
        self.check(model.name, model.config.to_dict())
        self.check_revision(model.name, model.revision, model.weights)
        plain = EraserRecord(model=self.base or model.name, revision=self.revision, shape=model.shape)
        write_adapter(self.folder, self.record or plain, model, out)

    def calibrated(self, calibration: Calibration) -> EraserRecord:
        """Return the eraser's record with this calibration of its base model; for a plain LoRA, a new record."""
        plain = EraserRecord(model=self.base or calibration.model, revision=self.revision, shape=calibration.shape)
        return (self.record or plain).model_copy(update={"calibration": calibration})

    def check_revision(self, name: str, revision: str | None, weights: str | None) -> None:
        """Raise ModelError where the eraser was trained for other weights.

        Digests are compared where both are known, else commits.
        """
        digests = (self.record.weights if self.record else None, weights)
        revisions = (self.record.revision if self.record else self.revision, revision)
        # Weights come first: a commit may change no more than a text file.
        there, here = digests if None not in digests else revisions
        if there is not None and here is not None and there != here:
            raise ModelError(
                f"The eraser {self.folder} is for another revision of {name} ({there}, not {here}); use one "
                "that was trained for it."
            )


def is_trained_eraser(eraser: str | Path) -> bool:
    """Return whether this is the directory, .gguf file or hub id of a trained eraser, or "pocket", rather than the name
    of a way to erase."""
    if isinstance(eraser, Path) or eraser == POCKET:
        return True
    if eraser.partition(" ")[0] in ERASERS:
        return False
    return "/" in eraser or eraser.startswith(("~", ".")) or Path(eraser).exists()


def open_eraser(name: str | Path) -> TrainedEraser:
    """Read the files of an eraser directory, .gguf file or hub id; "pocket" names the pocket model's eraser.

    Raises ModelError where there is no eraser.
    """
    if is_gguf(name):
        path = Path(name).expanduser()
        record = read_record(path)
        return TrainedEraser(path, record, record.model if record else None, record.revision if record else None)
    folder = _folder(str(name))
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise ModelError(
                f"{name} is not a trained eraser: it has no {needed}; give the directory of a LoRA saved by PEFT, a "
                f"hub id, or one of {', '.join(ERASERS)}."
            )
    config, _ = read_adapter(str(folder))
    record = EraserRecord.read(folder / FILE) if (folder / FILE).is_file() else None
    return TrainedEraser(folder, record, config.base_model_name_or_path, config.revision)


def _folder(name: str) -> Path:
    path = model_path() / BESIDE if name == POCKET else Path(name).expanduser()
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, FILE]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"Cannot find the eraser {name!r} ({reason}); give a directory, or a hub id that this machine can reach."
        ) from error


def _may_be_same(base: str, name: str) -> bool:
    """Return whether two names may be of one model; only two hub ids can show that they are not."""
    return not (_is_hub_id(base) and _is_hub_id(name)) or base.split("/")[1].lower() == name.split("/")[1].lower()


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not Path(name).exists()
