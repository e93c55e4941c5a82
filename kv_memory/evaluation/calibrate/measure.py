"""The tables of a calibration: residual influence and time by span and suffix length, agreement by class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median

from kv_memory.calibration.estimates import ratio, wilson
from kv_memory.calibration.record import Agreement, Fidelity, Latency
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.evaluation.calibrate.cases import ANSWER
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.worlds import world_cases
from kv_memory.evaluation.trial import ANSWER_TOKENS, Outcome, trial
from kv_memory.synthetic.drafts import KINDS
from kv_memory.synthetic.worlds import Probe, make_world

Step = Callable[[], None]
_WORLDS_A_PROBE = 20
"""Worlds tried per wanted probe; a class is given up if as many of its questions are tried and none is answered."""


def fidelity_and_latency(
    engine: Engine, cases: Sequence[Case], erasers: Mapping[str, Eraser], step: Step
) -> tuple[list[Fidelity], list[Latency]]:
    """Measure erasers on cases, at least one, of about one span and suffix length; return a row of each table per
    eraser, with the mean lengths.

    `step` is called after each case.
    """
    nothing: list[float] = []
    outcomes: dict[str, list[Outcome]] = {name: [] for name in erasers}
    span, following = (round(mean(lengths)) for lengths in zip(*((c.erased, c.following) for c in cases), strict=True))
    for case in cases:
        with trial(engine, case, ANSWER) as this:
            nothing.append(this.run(None).kl)
            for name, eraser in erasers.items():
                outcomes[name].append(this.run(eraser))
        step()
    fidelity = [
        Fidelity(
            eraser=name,
            span=span,
            following=following,
            cases=len(found),
            residual=ratio([outcome.kl for outcome in found], nothing),
        )
        for name, found in outcomes.items()
    ]
    latency = [
        Latency(
            eraser=name,
            span=span,
            following=following,
            milliseconds=round(1e3 * median(outcome.seconds for outcome in found), 3),
            recomputed=round(mean(outcome.recomputed for outcome in found), 1),
        )
        for name, found in outcomes.items()
    ]
    return fidelity, latency


def agreement(
    engine: Engine, tokens: int, probes: int, erasers: Mapping[str, Eraser], *, seed: int, step: Step
) -> list[Agreement]:
    """Measure agreement with never-saw: one row per eraser and class, over at most `probes` questions.

    Only questions that never-saw answers rightly count. They are on generated conversations of about `tokens` tokens;
    classes that the model cannot answer have no rows. `step` is called after each question.
    """
    form = ChatFormat(engine.tokenizer)
    agrees: dict[tuple[str, str], list[bool]] = defaultdict(list)
    tried: dict[str, int] = dict.fromkeys(KINDS, 0)
    counted: dict[str, int] = dict.fromkeys(KINDS, 0)
    for world_seed in range(seed, seed + _WORLDS_A_PROBE * probes):
        world = make_world(world_seed, tokens, "test")
        chosen: dict[str, Probe] = {probe.kind: probe for probe in world.probes if counted[probe.kind] < probes}
        # Give up a class that was never answered: its questions would only cost time.
        chosen = {kind: probe for kind, probe in chosen.items() if counted[kind] or tried[kind] < _WORLDS_A_PROBE}
        for case in world_cases(form, world, list(chosen.values())):
            tried[case.kind] += 1
            if len(case.ids) + len(case.tail) + ANSWER_TOKENS > engine.max_positions:
                continue
            with trial(engine, case) as this:
                if not this.answered:
                    continue
                counted[case.kind] += 1
                for name, eraser in erasers.items():
                    agrees[name, case.kind].append(this.run(eraser).agrees)
            step()
        if all(counted[kind] >= probes or (tried[kind] >= _WORLDS_A_PROBE and not counted[kind]) for kind in KINDS):
            break
    return [
        Agreement(eraser=name, kind=kind, tokens=tokens, probes=len(found), agree=wilson(sum(found), len(found)))
        for (name, kind), found in agrees.items()
    ]
