"""Made calibrations, and an engine to choose for."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from kv_memory.calibration.decide import candidates
from kv_memory.calibration.estimates import Estimate, wilson
from kv_memory.calibration.record import Agreement, Calibration, Fidelity, Latency
from kv_memory.engines.transformers import TransformersEngine
from tests.calibration.test_record import calibration
from tests.tiny import tiny_engine

NAMES = tuple(candidates(calibration().influence))
LENGTHS = (64, 512, 4096)
SPANS = (16, 256)


@cache
def engine() -> TransformersEngine:
    return tiny_engine()


def left(eraser: str, high: float, following: int = 512, span: int = 16) -> Fidelity:
    residual = Estimate(value=high / 2, low=0, high=high)
    return Fidelity(eraser=eraser, span=span, following=following, cases=8, residual=residual)


def took(eraser: str, milliseconds: float, following: int = 512, span: int = 16) -> Latency:
    return Latency(eraser=eraser, span=span, following=following, milliseconds=milliseconds, recomputed=1)


def agreed(eraser: str, right: int, probes: int = 100, kind: str = "binding", tokens: int = 512) -> Agreement:
    return Agreement(eraser=eraser, kind=kind, tokens=tokens, probes=probes, agree=wilson(right, probes))


def measured(*rows: Fidelity | Latency | Agreement, default: str = "recompute", following: int = 0) -> Calibration:
    """A calibration of these rows, with this default from `following` on."""
    kinds: dict[str, type[Fidelity | Latency | Agreement]] = {
        "fidelity": Fidelity,
        "latency": Latency,
        "agreement": Agreement,
    }
    tables = {table: tuple(row for row in rows if isinstance(row, kind)) for table, kind in kinds.items()}
    return calibration((following, default)).model_copy(update=tables)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    """Any figures, with holes."""
    rows: list[Fidelity | Latency | Agreement] = []
    for name in NAMES:
        for following in draw(st.sets(st.sampled_from(LENGTHS))):
            span = draw(st.sampled_from(SPANS))
            if draw(st.booleans()):
                rows.append(left(name, draw(st.floats(0, 1)), following, span))
            if draw(st.booleans()):
                rows.append(took(name, draw(st.floats(0.1, 1000)), following, span))
            if draw(st.booleans()):
                rows.append(agreed(name, draw(st.integers(0, 100)), tokens=following))
    return measured(*rows, default=draw(st.sampled_from(NAMES)), following=draw(st.sampled_from((0, 64, 512))))
