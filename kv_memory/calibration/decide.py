"""The rule by which a calibration chooses the default eraser, length by length.

An eraser is good enough for a suffix length if

- its residual influence is at most `RESIDUAL`, the mean over the span lengths measured with that suffix length, and
- of no class of questions does it answer more than 1 probe, and 1 in a hundred, other than never-saw; counted are the
  conversations whose length is nearest, and classes of which never-saw answers at least `ENOUGH` probes.

A mean, because a default does not ask how long the span is, and the interval of one span length, of a few cases, is too
wide to decide.

Of those that are good enough the fastest is the default, by its median times summed over span lengths; `recompute`
where none is faster than `GAIN` times recompute. Between two lengths the choice for the shorter one holds; below the
shortest it is `recompute`.
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
from kv_memory.erasers.repair import Repair
from kv_memory.erasers.selective import Selective
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
"""Tokens recomputed besides steering: fewer, since the steering states answer for the others."""


def candidates(settings: InfluenceSettings) -> dict[str, Eraser]:
    """What is measured, by the names that a calibration uses; for an engine that keeps these probe layers' queries.

    Those of them that the engine can do: some need a trained eraser.
    """
    simple: list[Eraser] = [Recompute(), Drop(), Shift(), Repair(), Selective(), Steer()]
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
    """The default for each suffix length of which the time was measured."""
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
    """Nearest length of those measured: time may have been measured at others."""
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
    """The length that `length` differs from by the smallest factor; None of none."""
    return min(lengths, key=lambda other: abs(math.log(max(1, other) / max(1, length))), default=None)
