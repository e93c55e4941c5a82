"""What a calibration says of an eraser's budgets: curves of time and of what is left, by share of the later tokens.

A curve goes through what was measured at one suffix length, as means over span lengths, with straight lines between.
It starts at no token, which is the eraser that the budget is added to (`shift` for `shift+influence`, `drop` for
`influence`), where that was measured. It never falls with more tokens (time), or rises (what is left): where a
measurement does, the worse value counts. Between two measured suffix lengths their curves are mixed in proportion.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import mean

from kv_memory.calibration.record import Calibration, Fidelity, Latency
from kv_memory.erasers.budget import Budget, Rates

Curve = list[tuple[float, float]]
"""Points (share of the later tokens, value), shares ascending; at least one."""


class MeasuredRates(Rates):
    """The rates that a calibration measured. Nothing is said beyond the budgets and suffix lengths that were."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def tokens_within(self, eraser: str, milliseconds: float, following: int) -> int | None:
        """See Rates.tokens_within. Below the shortest measured length its curve serves: fewer tokens take no longer."""
        known = self._calibration
        points = _points(((row, row.milliseconds) for row in known.latency), eraser, known.latency_run.free_tokens)
        curves = {length: _rising(curve) for length, curve in points.items()}
        curve = _at(curves, max(following, min(curves, default=0)))
        if curve is None or curve[0][1] > milliseconds:
            return None
        return math.floor(_last(curve, milliseconds) * following + 1e-6)

    def share_leaving(self, eraser: str, left: float, following: int) -> float | None:
        """See Rates.share_leaving. Below the shortest measured length it is all tokens."""
        known = self._calibration
        points = _points(((row, row.residual.value) for row in known.fidelity), eraser, known.fidelity_run.free_tokens)
        if points and following < min(points):
            return 1.0
        curve = _at({length: _falling(curve) for length, curve in points.items()}, following)
        if curve is None or curve[-1][1] > left:
            return None
        # the same question from the other end: the largest share that need not be run again
        backwards = [(-share, value) for share, value in reversed(curve)]
        return -_last(backwards, left)


def _points(rows: Iterable[tuple[Fidelity | Latency, float]], eraser: str, free: int) -> dict[int, Curve]:
    """Return the measured points of an eraser by suffix length, each the mean over its rows."""
    base = eraser.rpartition("+")[0] or "drop"
    found: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, value in rows:
        name, _, budget = row.eraser.partition(" ")
        if name == eraser and budget:
            tokens = Budget.of(budget).known_tokens(row.following, free)
            if tokens is not None:
                found[row.following][tokens / row.following].append(value)
        elif row.eraser == base:
            found[row.following][0.0].append(value)
    return {
        length: [(share, mean(values)) for share, values in sorted(points.items())]
        for length, points in found.items()
        if any(points)  # a share above 0: the eraser itself was measured there
    }


def _rising(curve: Curve) -> Curve:
    return list(zip((x for x, _ in curve), accumulate((y for _, y in curve), max), strict=True))


def _falling(curve: Curve) -> Curve:
    worse = list(accumulate((y for _, y in reversed(curve)), max))
    return list(zip((x for x, _ in curve), reversed(worse), strict=True))


def _at(curves: dict[int, Curve], following: int) -> Curve | None:
    """Return the curve for a suffix length; None outside the measured lengths, and where no share was measured at both
    of its neighbours."""
    lengths = sorted(curves)
    place = bisect_left(lengths, following)
    if place == len(lengths) or (place == 0 and lengths[0] != following):
        return None
    if lengths[place] == following:
        return curves[following]
    low, high = lengths[place - 1], lengths[place]
    part = (following - low) / (high - low)
    one, other = curves[low], curves[high]
    start, end = max(one[0][0], other[0][0]), min(one[-1][0], other[-1][0])
    shares = sorted({x for x, _ in (*one, *other) if start <= x <= end})
    return [(x, (1 - part) * _value(one, x) + part * _value(other, x)) for x in shares] or None


def _value(curve: Curve, x: float) -> float:
    """Return the curve's value at `x`, which is between its first and its last point."""
    place = bisect_left([point for point, _ in curve], x)
    (right, above) = curve[place]
    if right == x:
        return above
    (left, below) = curve[place - 1]
    return below + (above - below) * (x - left) / (right - left)


def _last(curve: Sequence[tuple[float, float]], limit: float) -> float:
    """Return the largest x at which a curve that never falls is at most `limit`; its first value is."""
    place = max(i for i, (_, value) in enumerate(curve) if value <= limit)
    x, value = curve[place]
    if place + 1 == len(curve):
        return x
    further, above = curve[place + 1]
    return x + (further - x) * (limit - value) / (above - value)
