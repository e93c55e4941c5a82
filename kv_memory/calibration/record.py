"""The calibration of one model, `calibration.json`: what was measured, and the default erasers that follow.

Fidelity depends on the model, time on the hardware too: the two may be measured on different machines, each under its
own `Run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from kv_memory.calibration.estimates import Estimate
from kv_memory.engines.parts import Normaliser
from kv_memory.erasers.influence import Combine
from kv_memory.errors import KVMemoryError

FILE = "calibration.json"
_WITHOUT_BUDGET = {
    "repair": "repair 32",
    "shift+repair": "shift+repair 32",
    "selective": "selective 15%",
    "shift+selective": "shift+selective 15%",
}
"""Labels of the erasers that older files name without their budget."""
_SHAPE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def _label(name: Any) -> Any:
    return _WITHOUT_BUDGET.get(name, name) if isinstance(name, str) else name


Label = Annotated[str, BeforeValidator(_label)]
"""Label of an eraser, from which `get_eraser` makes it: its name, with its budget where it has one."""


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
    free_tokens: int = 1
    """Number of tokens that the engine runs in the time of one; a share was never fewer (`Engine.free_tokens`)."""


class ProbeChoice(_Record):
    """One way to choose tokens by kept queries: what `influence` leaves with it, and its memory."""

    probe_layers: tuple[int, ...]
    combine: Combine = "mean"
    normaliser: Normaliser = "softmax"
    left: float
    """Residual influence, over all cases together: mean KL from never-saw relative to no erasing."""
    cases: int
    memory: float
    """Memory of the kept queries, as a share of that of K and V."""


class InfluenceSettings(_Record):
    """The best settings of `influence` for this model."""

    probe_layers: tuple[int, ...]
    """Layers whose queries are kept; none where the engine keeps no queries."""
    combine: Combine = "mean"
    normaliser: Normaliser = "softmax"
    left: float | None = None
    """Residual influence with these settings; see `ProbeChoice.left`. None where it was not measured."""
    memory: float | None = None
    """Memory of the kept queries, as a share of that of K and V; None where it is not known."""

    @model_validator(mode="before")
    @classmethod
    def _without_share(cls, given: Any) -> Any:
        """Leave out what older files have instead of `left`: a share of squared change."""
        return {key: value for key, value in given.items() if key != "share"} if isinstance(given, dict) else given


class Fidelity(_Record):
    """The residual influence of an eraser at one span and suffix length: mean KL from never-saw relative to no
    erasing."""

    eraser: Label
    span: int
    following: int
    cases: int
    residual: Estimate


class Latency(_Record):
    """The time of an eraser at one span and suffix length."""

    eraser: Label
    span: int
    following: int
    milliseconds: float
    """Median time."""
    recomputed: float
    """Mean number of tokens recomputed."""


class Agreement(_Record):
    """The share of questions whose greedy answer is never-saw's, among those that never-saw answers rightly."""

    eraser: Label
    kind: str
    tokens: int
    """Approximate length of the conversations, in tokens."""
    probes: int
    agree: Estimate


class Default(_Record):
    """The default eraser where at least `following` tokens follow the span, up to the next entry's `following`."""

    following: int
    eraser: Label


class Calibration(_Record):
    """All figures of one model."""

    format: Literal[1] = 1
    model: str
    shape: dict[str, int | str]
    influence: InfluenceSettings
    choices: tuple[ProbeChoice, ...] = ()
    """All ways to choose tokens that were measured; `influence` has the one that was chosen."""
    fidelity_run: Run
    fidelity: tuple[Fidelity, ...]
    agreement: tuple[Agreement, ...]
    latency_run: Run
    latency: tuple[Latency, ...]
    defaults: tuple[Default, ...]
    """Default erasers from `decide.defaults`, by ascending `following`."""

    @model_validator(mode="before")
    @classmethod
    def _without_layers(cls, given: Any) -> Any:
        """Leave out what older files have instead of `choices`: shares of squared change."""
        return {key: value for key, value in given.items() if key != "layers"} if isinstance(given, dict) else given

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


def beside(model: Path) -> Path:
    """Return where the calibration of a model is kept: in its directory, or beside its .gguf file."""
    return model / FILE if model.is_dir() else model.with_suffix(f".{FILE}")


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
