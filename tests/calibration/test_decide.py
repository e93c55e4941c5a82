"""The choice of probe layers, normaliser and default erasers, from made figures."""

from __future__ import annotations

from random import Random

import pytest

from kv_memory.calibration.decide import candidates, defaults
from kv_memory.calibration.estimates import Estimate, ratio, wilson
from kv_memory.calibration.record import Agreement, Fidelity, InfluenceSettings, Latency
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers import ERASERS
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.evaluation.calibrate.layers import NORMALISERS, Setting, choose, choose_layers, finalists
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.evaluation.trial import trial
from kv_memory.testing.chat import tiny_model, tiny_tokenizer

MILLISECONDS = {"recompute": 100.0, "drop": 1.0, "shift": 5.0, "influence 32": 30.0, "shift+influence 32": 40.0}
LEFT = {"recompute": 0.0, "drop": 0.4, "shift": 0.3, "influence 32": 0.04, "shift+influence 32": 0.02}


def rows(
    left: dict[str, float], milliseconds: dict[str, float], following: int = 512
) -> tuple[list[Fidelity], list[Latency]]:
    fidelity = [
        Fidelity(eraser=e, span=span, following=following, cases=8, residual=Estimate(value=v, low=v, high=v))
        for span in (16, 64)
        for e, v in left.items()
    ]
    latency = [
        Latency(eraser=e, span=span, following=following, milliseconds=v, recomputed=32)
        for span in (16, 64)
        for e, v in milliseconds.items()
    ]
    return fidelity, latency


def asked(eraser: str, wrong: int, probes: int = 100, tokens: int = 512) -> Agreement:
    return Agreement(eraser=eraser, kind="binding", tokens=tokens, probes=probes, agree=wilson(probes - wrong, probes))


def only(found: tuple[object, ...]) -> str:
    assert len(found) == 1
    return str(found[0].eraser)  # type: ignore[attr-defined]


def test_the_default_is_the_fastest_that_is_good_enough() -> None:
    fidelity, latency = rows(LEFT, MILLISECONDS)
    assert only(defaults(fidelity, [], latency)) == "influence 32"
    assert only(defaults(*rows(LEFT | {"influence 32": 0.06}, {})[:1], [], latency)) == "shift+influence 32"


def test_what_is_left_is_judged_over_all_span_lengths() -> None:
    fidelity, latency = rows(LEFT, MILLISECONDS)
    longer = [row.model_copy(update={"span": 256}) for row in rows(LEFT | {"influence 32": 0.065}, {})[0][-5:]]
    assert only(defaults([*fidelity, *longer], [], latency)) == "influence 32"
    worst = [row.model_copy(update={"span": 256}) for row in rows(LEFT | {"influence 32": 0.075}, {})[0][-5:]]
    assert only(defaults([*fidelity, *worst], [], latency)) == "shift+influence 32"


def test_recompute_is_the_default_where_nothing_is_good_enough_or_faster() -> None:
    fidelity, latency = rows(dict.fromkeys(LEFT, 0.2), MILLISECONDS)
    assert only(defaults(fidelity, [], latency)) == "recompute"
    fidelity, latency = rows(LEFT, MILLISECONDS | {"influence 32": 95.0, "shift+influence 32": 120.0})
    assert only(defaults(fidelity, [], latency)) == "recompute"


@pytest.mark.parametrize(
    ("wrong", "probes", "default"),
    [
        (2, 100, "influence 32"),
        (3, 100, "shift+influence 32"),
        (1, 20, "influence 32"),
        (2, 20, "shift+influence 32"),
        (9, 9, "influence 32"),  # too few to tell
    ],
)
def test_an_eraser_that_answers_otherwise_is_passed_over(wrong: int, probes: int, default: str) -> None:
    fidelity, latency = rows(LEFT, MILLISECONDS)
    assert only(defaults(fidelity, [asked("influence 32", wrong, probes)], latency)) == default


def test_the_nearest_length_counts() -> None:
    fidelity, latency = rows(LEFT, MILLISECONDS)
    at_other_length = [asked("influence 32", 9, tokens=4096), asked("influence 32", 0, tokens=256)]
    assert only(defaults(fidelity, at_other_length, latency)) == "influence 32"
    longer = rows(LEFT | {"influence 32": 0.5}, MILLISECONDS, following=4096)
    chosen = defaults([*fidelity, *longer[0]], [], [*latency, *longer[1]])
    assert [(row.following, row.eraser) for row in chosen] == [(512, "influence 32"), (4096, "shift+influence 32")]
    # time measured elsewhere at 1024: what was left behind is taken from 512
    assert only(defaults([*fidelity, *longer[0]], [], rows({}, MILLISECONDS, following=1024)[1])) == "influence 32"


SETTINGS = InfluenceSettings(probe_layers=(1,), combine="max", normaliser="none", left=0.1)


def test_candidates_carry_the_calibrated_settings() -> None:
    found = candidates(SETTINGS)
    assert {eraser.name for eraser in found.values()} == set(ERASERS)
    assert all(eraser.label == label for label, eraser in found.items())
    chosen = found["shift+influence 25%"]
    assert isinstance(chosen, ShiftInfluence)
    assert (chosen.label, chosen.combine, chosen.normaliser) == ("shift+influence 25%", "max", "none")


@pytest.mark.parametrize(
    ("shifts", "main", "rival"), [(True, "shift+influence", "shift+repair"), (False, "influence", "repair")]
)
def test_the_eraser_that_suits_the_engine_gets_the_whole_curve(shifts: bool, main: str, rival: str) -> None:
    budgets: dict[str, list[str]] = {}
    for label in candidates(SETTINGS, shifts):
        budgets.setdefault(label.split()[0], []).append(label.partition(" ")[2])
    assert budgets[main] == ["32", "5%", "10%", "15%", "25%", "50%"]
    assert budgets[rival] == ["32", "15%", "50%"]


def table(**left: float) -> dict[Setting, float]:
    """Layer 1 leaves .2 and layer 0 .5 with the softmax, the pair .2; changed by what is given."""
    found = {Setting((0,)): 0.5, Setting((1,)): 0.2, Setting((0, 1)): 0.2, Setting((0, 1), "max"): left.get("max", 0.2)}
    return found | {Setting((1,), "mean", name): left.get(name, 0.3) for name in NORMALISERS[:-1]}


def test_the_cheapest_setting_that_leaves_no_more_is_chosen() -> None:
    assert choose(table()) == Setting((1,))
    assert choose(table(sampled=0.205)) == Setting((1,), "mean", "sampled")
    assert choose(table(sampled=0.205, none=0.205)) == Setting((1,), "mean", "none")
    assert choose(table(max=0.19)) == Setting((1,))
    assert choose(table(max=0.17)) == Setting((0, 1), "max")
    assert choose({Setting((1,)): 0.2}) == Setting((1,))


def test_the_best_layers_of_the_first_round_are_measured_again_with_their_pairs() -> None:
    coarse = {Setting((layer,)): abs(layer - 4.2) for layer in range(10)}
    found = finalists(coarse, memory=0.05)
    assert [setting.layers for setting in found[:4]] == [(4,), (5,), (3,), (6,)]
    assert {setting.layers for setting in found if len(setting.layers) == 2} == {(4, 5), (3, 4), (3, 5)}
    assert {(s.layers, s.normaliser) for s in found if s.normaliser != "softmax"} == {
        ((4,), name) for name in ("none", "sampled")
    }


def test_pairs_that_take_too_much_memory_are_left_out() -> None:
    coarse = {Setting((layer,)): float(layer) for layer in range(4)}
    assert any(len(setting.layers) == 2 for setting in finalists(coarse, memory=0.06))
    assert all(len(setting.layers) == 1 for setting in finalists(coarse, memory=0.061))


def test_layers_are_found_on_a_model() -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers="all")
    cases = text_cases([i * i % 250 for i in range(400)], [], 12, 100, Random(0))
    done: list[int] = []
    settings, rows = choose_layers(engine, [next(cases) for _ in range(5)], lambda: done.append(1))
    assert len(done) == 5
    assert {row.probe_layers for row in rows} == {(0,), (1,)}, "a pair takes all of 100 % of K and V here"
    assert {row.cases for row in rows} == {2}
    assert [row.left for row in rows] == sorted(row.left for row in rows)
    assert all(row.memory == engine.probe_memory for row in rows)
    assert settings.left == pytest.approx(min(row.left for row in rows if row.normaliser == "softmax"), abs=0.011)
    assert settings.memory == len(settings.probe_layers) * engine.probe_memory


def test_what_is_left_is_that_of_the_share_of_tokens() -> None:
    """The best of the rule's rows leaves what the eraser itself leaves with as many tokens, on the same cases."""
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers="all")
    source = text_cases([i * i % 250 for i in range(400)], [], 12, 100, Random(0))
    cases = [next(source) for _ in range(4)]
    settings, _ = choose_layers(engine, cases)
    eraser = ShiftInfluence("15%", layers=settings.probe_layers, normaliser=settings.normaliser)
    kls = []
    for case in cases[3:]:
        with trial(engine, case) as this:
            kls.append((this.run(eraser).kl, this.run(None).kl))
    assert settings.left == pytest.approx(sum(kl for kl, _ in kls) / sum(kl for _, kl in kls), abs=1e-3)


def test_intervals() -> None:
    half = wilson(50, 100)
    assert [half.value, half.low, half.high] == pytest.approx([0.5, 0.4038, 0.5962], abs=1e-4)
    assert half.value == 0.5
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert ratio([1.0, 1.0], [2.0, 2.0]) == Estimate(value=0.5, low=0.5, high=0.5)
    spread = ratio([0.0, 1.0] * 20, [1.0] * 40)
    assert spread.low < spread.value == 0.5 < spread.high
    assert ratio([0.0], [0.0]).value == 0
