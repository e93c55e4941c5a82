"""How to erase where nobody said: the choice of eraser by what is known of the model."""

from __future__ import annotations

from kv_memory.calibration.decide import candidates
from kv_memory.calibration.record import Calibration
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute

EXACT_UP_TO = 128
"""Without a calibration: tokens after a span up to which reading them again costs about as much as an approximation."""


def default_eraser(engine: Engine, following: int, calibration: Calibration | None = None) -> Eraser:
    """The eraser where none was named, by `following`, the kept tokens after the span.

    The calibration's choice (calibration/decide.py) as far as the engine can do it. Without a calibration `recompute`
    where few tokens follow or the engine lacks influence, else `influence`.
    """
    if calibration is not None:
        name = calibration.default(following)
        eraser = candidates(calibration.influence)[name] if name else Recompute()
        return Recompute() if eraser.lacking(engine) else eraser
    if following <= EXACT_UP_TO or not engine.capabilities.influence:
        return Recompute()
    return Influence()
