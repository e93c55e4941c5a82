"""A choice of eraser, with the figures of every alternative and why it was passed over, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kv_memory.calibration.estimates import Estimate
from kv_memory.calibration.record import Fidelity, Latency
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.policy.config import Handling
from kv_memory.policy.figures import Figures


@dataclass(frozen=True)
class Candidate:
    """An eraser that could be used, with its measured figures and the targets that it misses."""

    name: str
    """Name of the eraser in the calibration."""
    eraser: Eraser
    figures: Figures
    lacking: str = ""
    """Capabilities that the engine lacks for it, in words; empty where it can run."""
    unfaithful: str = ""
    """Fidelity target that it misses, in words; empty where none is missed. An exact eraser never misses one."""
    late: str = ""
    """Latency target that it misses, in words; empty where none is missed."""
    replayed: int = 0
    """Tokens before the span that run again too, since the engine goes back to where it kept its state."""

    @classmethod
    def of(
        cls, name: str, eraser: Eraser, figures: Figures, engine: Engine, handling: Handling, *, replayed: int = 0
    ) -> Candidate:
        """Judge one eraser by its figures."""
        lacking = [_LACKING.get(need, need) for need in eraser.lacking(engine)]
        return cls(
            name,
            eraser,
            figures,
            lacking=f"the engine has no {' and no '.join(lacking)}" if lacking else "",
            unfaithful="" if eraser.exact else " and ".join(_unfaithful(figures, handling)),
            late=_late(figures, handling),
            replayed=replayed,
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """Return why it cannot run and which targets it misses, in words."""
        return tuple(fault for fault in (self.lacking, self.unfaithful, self.late) if fault)

    def describe(self) -> str:
        """Return its figures in words: residual influence and agreement with intervals, milliseconds, if measured."""
        return "; ".join(_figures(self))


@dataclass(frozen=True)
class Choice:
    """The eraser that was chosen, with the reasons."""

    chosen: Candidate
    why: str
    rejected: tuple[tuple[Candidate, str], ...] = ()
    """Every other candidate, each with the reason why it was passed over."""

    @property
    def eraser(self) -> Eraser:
        """Return the eraser to use."""
        return self.chosen.eraser

    @property
    def name(self) -> str:
        """Return the eraser's name in the calibration."""
        return self.chosen.name

    @property
    def residual(self) -> float | None:
        """Return its residual influence measured at such lengths; 0 for an exact eraser, None if not measured."""
        if self.eraser.exact:
            return 0.0
        known = self.chosen.figures.fidelity
        return None if known is None else known.residual.value

    def explain(self) -> str:
        """Return the choice in words, one line for each candidate, the chosen one first."""
        but = f", although {' and '.join(self.chosen.faults)}" if self.chosen.faults else ""
        lines = [f"{self.name}: chosen, {self.why}{but} ({self.chosen.describe()})."]
        lines += [f"{other.name}: passed over, {why} ({other.describe()})." for other, why in self.rejected]
        return "\n".join(lines)


_LACKING = {"edit": "cell edits", "steering": "trained eraser loaded"}


def _unfaithful(figures: Figures, handling: Handling) -> Iterator[str]:
    if handling.residual is not None:
        if figures.fidelity is None:
            yield "its residual influence was not measured"
        elif figures.residual > handling.residual:
            yield f"its residual influence may be {figures.residual:.3g}, over the target of {handling.residual:g}"
    if handling.agreement is not None:
        if figures.agreement is None:
            yield "its agreement was not measured on enough questions"
        elif figures.agreement.agree.value < handling.agreement:
            value = figures.agreement.agree.value
            yield f"its agreement is {value:.3g}, under the target of {handling.agreement:g}"


def _late(figures: Figures, handling: Handling) -> str:
    if handling.latency_ms is None:
        return ""
    if figures.latency is None:
        return "its time was not measured"
    if figures.milliseconds > handling.latency_ms:
        return f"its {figures.milliseconds:.3g} ms are over the target of {handling.latency_ms:g} ms"
    return ""


def _figures(candidate: Candidate) -> Iterator[str]:
    known = candidate.figures
    if candidate.eraser.exact:
        yield "exact"
        if candidate.replayed:
            yield f"{candidate.replayed} tokens before the span run again too"
    elif known.fidelity is None:
        yield "residual influence not measured"
    else:
        yield f"residual influence {_interval(known.fidelity.residual)}{_lengths(known.fidelity)}"
    if known.agreement is not None and not candidate.eraser.exact:
        asked = known.agreement
        yield f"agreement {_interval(asked.agree)} on {asked.probes} questions of the class {asked.kind!r}"
    if known.latency is None:
        yield "time not measured"
    else:
        yield f"{known.latency.milliseconds:.3g} ms{_lengths(known.latency)}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} [95 %: {estimate.low:.3g} to {estimate.high:.3g}]"


def _lengths(row: Fidelity | Latency) -> str:
    return f" with {row.span} tokens and {row.following} after them"
