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

from kv_memory.calibration.record import Agreement, Default, Fidelity, InfluenceSettings, Latency
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.repair import Repair, ShiftRepair
from kv_memory.erasers.selective import Selective, ShiftSelective
from kv_memory.erasers.shift import Shift
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steer_influence import SteerInfluence
from kv_memory.erasers.steer_repair import SteerRepair

RESIDUAL = 0.1
ENOUGH = 10
GAIN = 0.9
KS = (16, 32, 64, 128)
STEERED_KS = (8, 16, 32)
"""Numbers of tokens recomputed besides steering: fewer, since the steering states stand in for the others."""


def candidates(settings: InfluenceSettings) -> dict[str, Eraser]:
    """Return the erasers that are measured, by their names in a calibration.

    `settings` fit an engine that keeps the queries of their probe layers. An engine may lack what some erasers need,
    such as a trained eraser.
    """
    simple: list[Eraser] = [
        Recompute(),
        Drop(),
        Shift(),
        Repair(32),
        ShiftRepair(32),
        Selective(),
        ShiftSelective(),
        Steer(),
    ]
    result = {eraser.name: eraser for eraser in simple}
    for kind in (Influence, ShiftInfluence):
        for k in KS:
            result[f"{kind.name} {k}"] = kind(k, combine=settings.combine, normaliser=settings.normaliser)
    for k in STEERED_KS:
        result[f"{SteerRepair.name} {k}"] = SteerRepair(k)
        steered = SteerInfluence(k, combine=settings.combine, normaliser=settings.normaliser)
        result[f"{SteerInfluence.name} {k}"] = steered
    return result


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
