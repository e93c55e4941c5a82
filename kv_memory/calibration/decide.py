"""The rule by which a calibration chooses the default eraser for each suffix length.

An eraser is good enough for a suffix length if

- its residual influence is at most `RESIDUAL`, the mean over the span lengths measured with that suffix length, and
- in no class of questions does it answer more than 1 probe plus 1 in a hundred differently from never-saw. Counted are
  the conversations whose length is nearest, and classes in which never-saw answers at least `ENOUGH` probes.

It is a mean because a default does not depend on the length of the span, and because the interval for one span length,
of a few cases, is too wide to decide.

The fastest eraser that is good enough is the default, by its median times summed over span lengths; it is `recompute`
where none takes less than `GAIN` of recompute's time. Between two measured lengths the choice for the shorter one
holds; below the shortest it is `recompute`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from kv_memory.calibration.record import Agreement, Calibration, Default, Fidelity, InfluenceSettings, Latency
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute

RESIDUAL = 0.05
ENOUGH = 10
GAIN = 0.9
SHARES = ("5%", "10%", "15%", "25%", "50%")
BASES = ("recompute", "drop", "shift", "steer", "selective 15%", "shift+selective 15%")
"""Erasers that are measured once, without budgets to choose from."""
MAIN = ("32", *SHARES)
"""Budgets at which the main eraser of an engine is measured: those that its curve has."""
NEAR = ("32", "15%", "50%")
"""Budgets of its simple rival, which recomputes what comes first."""
HOLED = ("15%",)
"""Budgets of the others."""
STEERED = ("16", "32", "5%", "15%", "25%")
"""Budgets beside steering: fewer tokens may do, since the steering states stand in for the others."""


def candidates(settings: InfluenceSettings, shifts: bool = True) -> dict[str, Eraser]:
    """Return the erasers that a calibration measures, by label.

    `settings` fit an engine that keeps the queries of their probe layers; `shifts`: whether it can move cells. Where it
    can, closing the gap costs little and leaves less, so that the erasers that leave a hole are measured at fewer
    budgets. An engine may lack what some of the erasers need, such as a trained eraser.
    """
    near, far = ("shift+repair", "shift+influence") if shifts else ("repair", "influence")
    budgets: dict[str, tuple[str, ...]] = {"repair": HOLED, "influence": HOLED}
    budgets |= {near: NEAR, far: MAIN, "steer+repair": HOLED, "steer+influence": STEERED}
    labels = [*BASES, *(f"{name} {budget}" for name, each in budgets.items() for budget in each)]
    return {label: calibrated(label, settings) for label in labels}


def measured(calibration: Calibration) -> dict[str, Eraser]:
    """Return the erasers that a calibration knows, by label: those that it measured and its defaults."""
    tables = (calibration.latency, calibration.fidelity, calibration.agreement, calibration.defaults)
    labels = dict.fromkeys(row.eraser for table in tables for row in table)
    return {label: calibrated(label, calibration.influence) for label in labels}


def calibrated(label: str, settings: InfluenceSettings) -> Eraser:
    """Return the eraser of a label, with a calibration's settings where it chooses tokens by kept queries."""
    eraser = get_eraser(label)
    if not isinstance(eraser, Influence):
        return eraser
    return type(eraser)(eraser.budget, combine=settings.combine, normaliser=settings.normaliser)


def defaults(
    fidelity: Sequence[Fidelity], agreement: Sequence[Agreement], latency: Sequence[Latency]
) -> tuple[Default, ...]:
    """Return the default eraser for each suffix length at which the time was measured."""
    lengths = sorted({row.following for row in latency})
    return tuple(Default(following=n, eraser=_fastest(n, fidelity, agreement, latency)) for n in lengths)


def _fastest(
    following: int, fidelity: Sequence[Fidelity], agreement: Sequence[Agreement], latency: Sequence[Latency]
) -> str:
    names = dict.fromkeys(row.eraser for row in latency if row.following == following)
    times = {
        name: sum(row.milliseconds for row in latency if (row.eraser, row.following) == (name, following))
        for name in names
    }
    recompute = times[Recompute.name]
    good = [
        name
        for name in times
        if name != Recompute.name
        and times[name] < GAIN * recompute
        and _removes(name, following, fidelity)
        and _agrees(name, following, agreement)
    ]
    return min(good, key=lambda name: times[name], default=Recompute.name)


def _removes(name: str, following: int, fidelity: Sequence[Fidelity]) -> bool:
    """Return whether the mean residual influence at the nearest measured length is low enough.

    Time may have been measured at lengths that residual influence was not.
    """
    rows = [row for row in fidelity if row.eraser == name]
    measured = nearest(following, [row.following for row in rows])
    left = [row.residual.value for row in rows if row.following == measured]
    return bool(left) and mean(left) <= RESIDUAL


def _agrees(name: str, following: int, agreement: Sequence[Agreement]) -> bool:
    rows = [row for row in agreement if row.eraser == name and row.probes >= ENOUGH]
    tokens = nearest(following, [row.tokens for row in rows])
    return all(
        round(row.probes * (1 - row.agree.value)) <= 1 + row.probes / 100 for row in rows if row.tokens == tokens
    )


def nearest(length: int, lengths: Sequence[int]) -> int | None:
    """Return the length that differs from `length` by the smallest factor; None if there are none."""
    return min(lengths, key=lambda other: abs(math.log(max(1, other) / max(1, length))), default=None)
