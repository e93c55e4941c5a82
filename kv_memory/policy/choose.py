"""The choice of an eraser where the caller named none: by the calibration of the model, the targets and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kv_memory.calibration.decide import GAIN, measured
from kv_memory.calibration.record import Calibration
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.policy.choice import Candidate, Choice
from kv_memory.policy.config import Handling, Policy
from kv_memory.policy.figures import Figures, figures
from kv_memory.policy.reasons import Reason

GIVEN_BACK = "layers with a window gave back what this text needs to be edited in place (editable_tokens)"
EXACT_UP_TO = 128
"""Number of tokens after a span up to which, without a calibration, recomputing them costs about as much as an
approximation."""


def default_eraser(engine: Engine, following: int, calibration: Calibration | None = None) -> Eraser:
    """Return what `choose` gives without policy and reason; `following`: number of kept tokens after the span."""
    # the calibration's defaults do not ask for the length of the span
    return choose(engine, 1, following, calibration=calibration).eraser


def choose(
    engine: Engine,
    span: int,
    following: int,
    *,
    replayed: int = 0,
    in_place: bool = True,
    calibration: Calibration | None = None,
    policy: Policy | None = None,
    reason: Reason | str = "",
    erasers: Mapping[str, Eraser] | None = None,
) -> Choice:
    """Choose how to erase `span` tokens that are followed by `following` kept tokens.

    `replayed`: tokens before the span that an exact eraser has to run again too; see `Engine.replayed_from`.
    `in_place`: whether the span can be edited in place at all; else an exact eraser is chosen (`Engine.editable_from`).

    - For a reason that the policy wants exact (security, unless it says otherwise): the fastest exact eraser.
    - Without targets: the calibration's default for this length, `recompute` below the shortest length measured or
      where the engine lacks what it needs. Without a calibration: `recompute` where few tokens follow or the engine
      lacks influence or is `unproven`, else `shift+influence`, or `influence` where the engine cannot shift.
    - With a latency target: of the erasers that meet all targets the one that leaves least behind, an exact one first.
    - With a fidelity target alone: the fastest that meets it; an exact one where nothing is much faster. Without a
      calibration only an exact one is known to meet it.
    - Where none meets all: the fastest of those that meet the fidelity target, if there is one. Fidelity comes first.

    `erasers`: the candidates, by the names that the calibration uses; by default all that the calibration measured. An
    eraser that needs a capability which the engine lacks is never chosen.
    """
    handling = (policy or Policy()).handling(reason)
    if erasers is None and calibration is None:
        erasers = {eraser.name: eraser for eraser in (Recompute(), ShiftInfluence(), Influence())}
    elif erasers is None and calibration is not None:
        erasers = measured(calibration)
    known = dict(erasers or {})
    if not any(eraser.exact and not eraser.lacking(engine) for eraser in known.values()):
        known[Recompute.name] = Recompute()
    rows = _rows(calibration, span, following, replayed)
    asked: dict[str, Any] = {"handling": handling, "rows": rows, "replayed": replayed}
    judged = [_judge(name, eraser, engine, **asked) for name, eraser in known.items()]
    able = [candidate for candidate in judged if not candidate.lacking]
    if handling.exact:
        chosen = _exact(judged)
        why = f"since this policy erases exactly for reasons of {handling.category}"
    elif not in_place:
        chosen, why = _exact(judged), f"since {GIVEN_BACK}"
    elif handling.targets and calibration is not None:
        chosen, why = _by_targets(able, handling)
    elif calibration is not None:
        chosen, why = _as_calibrated(judged, following, calibration)
    else:
        chosen, why = _uncalibrated(engine, judged, following + replayed, handling)
    exactly = handling.exact or not in_place or (calibration is None and bool(engine.unproven))
    return Choice(chosen, why, tuple((c, _rejection(c, chosen, handling, exactly)) for c in judged if c is not chosen))


def as_named(
    engine: Engine,
    eraser: Eraser,
    span: int,
    following: int,
    *,
    replayed: int = 0,
    calibration: Calibration | None = None,
    policy: Policy | None = None,
    reason: Reason | str = "",
) -> Choice:
    """Return a choice for an eraser that the caller named, with its figures and the targets that it misses."""
    handling = (policy or Policy()).handling(reason)
    name = eraser.name
    if calibration is not None:
        name = next((label for label, known in measured(calibration).items() if _same(known, eraser)), name)
    rows = _rows(calibration, span, following, replayed)
    judged = _judge(name, eraser, engine, handling=handling, rows=rows, replayed=replayed)
    return Choice(judged, "since the call or the memory names it")


_Rows = Mapping[bool, Mapping[str, Figures]]
"""Figures by eraser, of those that are exact and of those that are not."""


def _rows(calibration: Calibration | None, span: int, following: int, replayed: int) -> _Rows:
    """Return the figures for these lengths: an exact eraser recomputes the replayed tokens beside the following."""
    if calibration is None:
        return {True: {}, False: {}}
    approximate = figures(calibration, span, following)
    return {True: figures(calibration, span, following + replayed) if replayed else approximate, False: approximate}


def _judge(name: str, eraser: Eraser, engine: Engine, *, handling: Handling, rows: _Rows, replayed: int) -> Candidate:
    known = rows[eraser.exact].get(name, Figures())
    return Candidate.of(name, eraser, known, engine, handling, replayed=replayed if eraser.exact else 0)


def _same(one: Eraser, other: Eraser) -> bool:
    """Return whether two erasers do the same; rates only say what a time or a target means."""
    return type(one) is type(other) and {**vars(one), "rates": None} == {**vars(other), "rates": None}


def _by_targets(able: Sequence[Candidate], handling: Handling) -> tuple[Candidate, str]:
    good = [candidate for candidate in able if not candidate.faults]
    if good and handling.latency_ms is not None:
        best = min(good, key=lambda c: (not c.eraser.exact, c.figures.residual, c.figures.milliseconds))
        return best, "of those that meet the targets it leaves least behind"
    if good:
        return _fastest(good), "the fastest that meets the target, or exact where that is little slower"
    faithful = [candidate for candidate in able if not candidate.unfaithful]  # exact ones are always among them
    among = " of those that meet the fidelity target" if handling.faithful else ""
    return _fastest(faithful), f"since none meets the latency target, the fastest{among}"


def _as_calibrated(judged: Sequence[Candidate], following: int, calibration: Calibration) -> tuple[Candidate, str]:
    name = calibration.default(following)
    found = next((candidate for candidate in judged if candidate.name == name and not candidate.lacking), None)
    if found is not None:
        return found, f"the calibration's choice for {following} tokens after a span"
    if name is None:
        return _exact(judged), f"since the calibration has measured nothing as short as {following} tokens after a span"
    return _exact(judged), "since this engine cannot do what the calibration chose for this length"


def _uncalibrated(
    engine: Engine, judged: Sequence[Candidate], following: int, handling: Handling
) -> tuple[Candidate, str]:
    unchecked = " to check the latency target by" if handling.latency_ms is not None else ""
    why = f"since there is no calibration of this model{unchecked} and"
    if engine.unproven:
        return _exact(judged), f"{why} {engine.unproven}, so that no approximation is known to do well"
    other = next((c for c in judged if c.name in (ShiftInfluence.name, Influence.name) and not c.lacking), None)
    if handling.faithful:
        return _exact(judged), f"{why} only an exact eraser is known to meet the fidelity target"
    if following <= EXACT_UP_TO:
        return _exact(judged), f"{why} recomputing {following} tokens costs about as much as an approximation"
    if other is None:
        return _exact(judged), f"{why} no approximation can run here"
    return other, f"{why} more than {EXACT_UP_TO} tokens follow the span"


def _exact(judged: Sequence[Candidate]) -> Candidate:
    return _fastest([candidate for candidate in judged if candidate.eraser.exact and not candidate.lacking])


def _fastest(pool: Sequence[Candidate]) -> Candidate:
    """Return the fastest; an exact one where none is faster than `GAIN` times it, or no time is known."""
    best = min(pool, key=lambda candidate: candidate.figures.milliseconds)
    exact = min(
        (candidate for candidate in pool if candidate.eraser.exact),
        key=lambda candidate: candidate.figures.milliseconds,
        default=best,
    )
    return best if best.figures.milliseconds < GAIN * exact.figures.milliseconds else exact


def _rejection(candidate: Candidate, chosen: Candidate, handling: Handling, exactly: bool) -> str:
    """Return why a candidate was passed over. `exactly`: whether only an exact one came into question."""
    inexact = chosen.eraser.exact and not candidate.eraser.exact
    slower = candidate.figures.milliseconds > chosen.figures.milliseconds
    if candidate.lacking:
        return candidate.lacking
    if exactly and inexact:
        return "it is not exact"
    if candidate.faults:
        return " and ".join(candidate.faults)
    if not handling.targets:
        return "another one is the default for this length"
    if handling.latency_ms is not None:
        return "it takes longer and leaves no less behind" if slower and not inexact else "it leaves more behind"
    return "it takes longer" if slower else "it is not exact, and hardly faster" if inexact else "it is not faster"
