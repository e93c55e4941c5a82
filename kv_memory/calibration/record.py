"""The calibration of one model, `calibration.json`: what was measured, and the default erasers that follow.

Fidelity depends on the model, time on the hardware too: the two may be measured on different machines, each under its
own `Run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kv_memory.calibration.estimates import Estimate
from kv_memory.engines.parts import Normaliser
from kv_memory.erasers.influence import Combine
from kv_memory.errors import KVMemoryError

FILE = "calibration.json"
_SHAPE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Record):
    """The machine, versions and time of a measurement."""

    hardware: str
    dtype: str
    versions: dict[str, str]
    seed: int
    date: str
    """Date of the run: ISO 8601, UTC."""
    seconds: float


class LayerShare(_Record):
    """The quality of one layer's influence score: how well it finds the tokens that the spans changed."""

    layer: int
    normaliser: Normaliser
    share: float
    """Share of the squared change in the chosen tokens, relative to the best choice of as many: 1 is perfect."""


class InfluenceSettings(_Record):
    """The best settings of `influence` for this model."""

    probe_layers: tuple[int, ...]
    combine: Combine = "mean"
    normaliser: Normaliser = "softmax"
    share: float
    """Share of the squared change that these settings find; see `LayerShare.share`."""


class Fidelity(_Record):
    """The residual influence of an eraser at one span and suffix length: mean KL from never-saw relative to no
    erasing."""

    eraser: str
    span: int
    following: int
    cases: int
    residual: Estimate


class Latency(_Record):
    """The time of an eraser at one span and suffix length."""

    eraser: str
    span: int
    following: int
    milliseconds: float
    """Median time."""
    recomputed: float
    """Mean number of tokens recomputed."""


class Agreement(_Record):
    """The share of questions whose greedy answer is never-saw's, among those that never-saw answers rightly."""

    eraser: str
    kind: str
    tokens: int
    """Approximate length of the conversations, in tokens."""
    probes: int
    agree: Estimate


class Default(_Record):
    """The default eraser where at least `following` tokens follow the span, up to the next entry's `following`."""

    following: int
    eraser: str


class Calibration(_Record):
    """All figures of one model."""

    format: Literal[1] = 1
    model: str
    shape: dict[str, int | str]
    influence: InfluenceSettings
    layers: tuple[LayerShare, ...]
    fidelity_run: Run
    fidelity: tuple[Fidelity, ...]
    agreement: tuple[Agreement, ...]
    latency_run: Run
    latency: tuple[Latency, ...]
    defaults: tuple[Default, ...]
    """Default erasers from `decide.defaults`, by ascending `following`."""

    def default(self, following: int) -> str | None:
        """Return the default eraser for `following` kept tokens after the span; None below the shortest measured
        length."""
        entry: Default | None = None
        for entry_here in self.defaults:
            if entry_here.following <= following:
                entry = entry_here
        return entry.eraser if entry else None

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise KVMemoryError if the calibration was made for a model of another shape."""
        if self.shape != shape_of(config):
            raise KVMemoryError(
                f"The calibration is of {self.model}, a model of another shape; run kv-memory calibrate for this one."
            )


def shape_of(config: Mapping[str, Any]) -> dict[str, int | str]:
    """Return what identifies a model's shape in its (text) config: architecture and sizes."""
    return {key: config[key] for key in _SHAPE if config.get(key) is not None}


def load(path: Path) -> Calibration:
    """Read a calibration file. Raises KVMemoryError where it cannot be read or is not one."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KVMemoryError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        raise KVMemoryError(
            f"{path} is not a calibration of this version ({error.error_count()} problems); run kv-memory calibrate."
        ) from error
