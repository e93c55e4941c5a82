"""The figures that a calibration has for each eraser, at the lengths nearest to those of an erasure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kv_memory.calibration.decide import ENOUGH, nearest
from kv_memory.calibration.record import Agreement, Calibration, Fidelity, Latency

_Row = TypeVar("_Row", Fidelity, Latency)


@dataclass(frozen=True)
class Figures:
    """The measured rows that fit one erasure by one eraser; None where nothing was measured."""

    latency: Latency | None = None
    fidelity: Fidelity | None = None
    agreement: Agreement | None = None
    """Agreement in the class of questions with the lowest value, among those with at least `ENOUGH` probes."""

    @property
    def milliseconds(self) -> float:
        """Return the median time; infinite where it was not measured."""
        return self.latency.milliseconds if self.latency else float("inf")

    @property
    def residual(self) -> float:
        """Return the upper end of the residual influence's interval; infinite where it was not measured."""
        return self.fidelity.residual.high if self.fidelity else float("inf")


def figures(calibration: Calibration, span: int, following: int) -> Mapping[str, Figures]:
    """Return the figures by eraser, for a span of `span` tokens with `following` kept tokens after it.

    They are those of the nearest measured lengths; the length after the span is matched first.
    """
    rows: dict[str, _Rows] = defaultdict(_Rows)
    for latency in calibration.latency:
        rows[latency.eraser].latency.append(latency)
    for fidelity in calibration.fidelity:
        rows[fidelity.eraser].fidelity.append(fidelity)
    for agreement in calibration.agreement:
        if agreement.probes >= ENOUGH:
            rows[agreement.eraser].agreement.append(agreement)
    return {
        name: Figures(
            _nearest_row(known.latency, span, following),
            _nearest_row(known.fidelity, span, following),
            _worst_class(known.agreement, following),
        )
        for name, known in rows.items()
    }


@dataclass
class _Rows:
    """All measured rows of one eraser."""

    latency: list[Latency] = field(default_factory=list)
    fidelity: list[Fidelity] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)


def _nearest_row(rows: Sequence[_Row], span: int, following: int) -> _Row | None:
    length = nearest(following, sorted({row.following for row in rows}))
    rows = [row for row in rows if row.following == length]
    width = nearest(span, sorted({row.span for row in rows}))
    return next((row for row in rows if row.span == width), None)


def _worst_class(rows: Sequence[Agreement], following: int) -> Agreement | None:
    tokens = nearest(following, sorted({row.tokens for row in rows}))
    return min((row for row in rows if row.tokens == tokens), key=lambda row: row.agree.value, default=None)
