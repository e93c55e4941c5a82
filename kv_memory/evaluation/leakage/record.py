"""The result of `kv-memory eval leakage`, as its JSON file has it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.leakage.canaries import Leakage
from kv_memory.evaluation.machine import hardware

ByEraser = dict[str, Leakage]


class Environment(BaseModel):
    """Where figures come from."""

    model_config = ConfigDict(frozen=True)

    hardware: str
    python: str
    versions: dict[str, str]
    seed: int


class Cascaded(BaseModel):
    """How well a cascade told an echo from other turns, by one eraser."""

    model_config = ConfigDict(frozen=True)

    found: Estimate
    """Share of echoes that it took for dependent."""
    spared: Estimate
    """Share of the assistant's other turns that it left as they were."""


class Echoes(BaseModel):
    """What is left where a later turn says the erased value again."""

    model_config = ConfigDict(frozen=True)

    leakage: dict[str, ByEraser]
    """With "no cascade" and with "cascade"."""
    cascade: dict[str, Cascaded]
    """By eraser."""


class Orders(BaseModel):
    """What became of a tool result's order that the model obeys, by one eraser."""

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
    """By eraser: mean KL from never-saw as a share of that with nothing erased."""


class Target(BaseModel):
    """Something that is to be reached."""

    model_config = ConfigDict(frozen=True)

    name: str
    met: bool
    measured: str


class Result(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True)

    model: str
    environment: Environment
    canaries: ByEraser
    successive: dict[int, ByEraser]
    """By the number of erasures in one session, what is left of the first."""
    echoes: dict[str, Echoes]
    """By where the value is said again."""
    orders: dict[str, Orders]
    injections: dict[str, Injections]
    """By collection; empty where their files were not given."""
    targets: tuple[Target, ...] = ()
    """What is to be reached, and whether it was (targets.py)."""


def environment(seed: int) -> Environment:
    """Of this run."""
    names = ("kv-memory", "torch", "transformers", "tokenizers")
    return Environment(
        hardware=hardware(),
        python=platform.python_version(),
        versions={name: _version(name) for name in names},
        seed=seed,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
