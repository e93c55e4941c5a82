"""The result of `kv-memory eval leakage`, in the form of its JSON file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.leakage.canaries import Leakage
from kv_memory.evaluation.machine import Environment

ByEraser = dict[str, Leakage]


class Cascaded(BaseModel):
    """The success of a cascade in telling echoes from other turns, for one eraser."""

    model_config = ConfigDict(frozen=True)

    found: Estimate
    """Share of echoes that it found dependent."""
    spared: Estimate
    """Share of the assistant's other turns that it left as they were."""


class Echoes(BaseModel):
    """The leakage where a later turn repeats the erased value."""

    model_config = ConfigDict(frozen=True)

    leakage: dict[str, ByEraser]
    """Leakage with "no cascade" and with "cascade"."""
    cascade: dict[str, Cascaded]
    """Success of the cascade, by eraser."""


class Orders(BaseModel):
    """The effect of a tool result's order that the model obeys, under one treatment."""

    model_config = ConfigDict(frozen=True)

    obeyed: Estimate
    """Share of questions that got the ordered answer."""
    agreement: Estimate
    """Share of questions that got never-saw's answer."""


class Injections(BaseModel):
    """Injected text in real tool results."""

    model_config = ConfigDict(frozen=True)

    cases: int
    residual: dict[str, Estimate]
    """Mean KL from never-saw as a share of that with nothing erased, by eraser."""


class Target(BaseModel):
    """A limit that a figure has to meet, and whether it does."""

    model_config = ConfigDict(frozen=True)

    name: str
    met: bool
    measured: str


class Result(BaseModel):
    """The result of all measurements."""

    model_config = ConfigDict(frozen=True)

    model: str
    environment: Environment
    canaries: ByEraser
    successive: dict[int, ByEraser]
    """Leakage of the first erasure, by the number of erasures in one session."""
    echoes: dict[str, Echoes]
    """Results by where the value is repeated."""
    orders: dict[str, Orders]
    injections: dict[str, Injections]
    """Results by collection; empty where their files were not given."""
    targets: tuple[Target, ...] = ()
    """Limits that figures have to meet, and whether they do (targets.py)."""
