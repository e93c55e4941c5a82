"""The record of a trained eraser: the contents of eraser.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from kv_memory.calibration.record import Calibration, load, shape_of
from kv_memory.engines.base import Engine
from kv_memory.engines.fingerprint import revision_of
from kv_memory.erasers.steering import Steering
from kv_memory.errors import ModelError
from kv_memory.file_io import replacing

FILE = "eraser.json"


class EraserRecord(BaseModel):
    """The record of a trained eraser, as eraser.json has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    """Path or hub id of the base model."""
    revision: str | None = None
    """Commit of the base model on the hub, where that is known."""
    weights: str | None = None
    """Digest of the base model's weights (`Engine.weights_digest`), which tells models of one shape apart."""
    shape: dict[str, int | str]
    """Shape of the base model (calibration.record.shape_of)."""
    slots: int | None = Field(default=None, ge=1)
    """This and the next four fields are those of Steering."""
    spread: bool = False
    sees_suffix: bool = False
    token: int | None = Field(default=None, ge=0)
    closes: bool = False
    recipe: dict[str, Any] = {}
    """Settings that the eraser was trained with."""
    seed: int | None = None
    lengths: tuple[int, ...] = ()
    """Lengths, in tokens, of the contexts that the eraser was trained on."""
    calibration: Calibration | None = None
    """Calibration of this and the other erasers on this model: what each leaves behind and costs. In the file it may be
    the path of a calibration file, relative to the eraser's directory: that of a model which comes with its eraser."""

    @model_validator(mode="after")
    def _steering_is_possible(self) -> EraserRecord:
        if self.token is not None and self.token >= int(self.shape.get("vocab_size", self.token + 1)):
            raise ValueError(f"the slots' token {self.token} is not in the model's vocabulary")
        if self.closes and (self.spread or self.slots is None):
            raise ValueError("a gap is closed behind slots that are a span's first cells")
        return self

    @classmethod
    def of(cls, engine: Engine, steering: Steering | None = None, **more: Any) -> EraserRecord:
        """Create the record of an eraser of this engine's model. `more`: other fields, such as recipe, lengths or
        calibration."""
        known = {"model": engine.name, "revision": revision_of(engine.name), "weights": engine.weights_digest()}
        used = (
            {} if steering is None else {name: value for name, value in asdict(steering).items() if name != "adapter"}
        )
        return cls.model_validate({**known, "shape": shape_of(engine.config), **used, **more})

    def steering(self, adapter: str) -> Steering:
        """Return the settings with which `steer` uses the eraser's adapter, loaded under this name."""
        return Steering(adapter, self.slots, self.spread, self.sees_suffix, self.token, self.closes)

    @classmethod
    def read(cls, path: Path) -> EraserRecord:
        """Read an eraser.json. Raises ModelError where it is not one of this version."""
        try:
            said = from_json(path.read_bytes())
            if isinstance(said, dict) and isinstance(said.get("calibration"), str):
                said["calibration"] = load(path.parent / said["calibration"])
            return cls.model_validate(said)
        except ValueError as error:
            problems = error.error_count() if isinstance(error, ValidationError) else 1
            raise ModelError(
                f"{path} is not the record of an eraser of this version ({problems} problems); train it again or "
                "remove the file."
            ) from error

    def save(self, folder: Path) -> None:
        """Write eraser.json beside the adapter. Raises KVMemoryError where it cannot be written."""
        with replacing(folder / FILE) as draft:
            draft.write_text(self.model_dump_json(indent=1) + "\n")
