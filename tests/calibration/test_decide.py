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
from kv_memory.evaluation.calibrate.layers import NORMALISERS, Setting, choose, choose_layers
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.testing.chat import tiny_model, tiny_tokenizer

MILLISECONDS = {"recompute": 100.0, "drop": 1.0, "shift": 5.0, "influence 32": 30.0, "shift+influence 32": 40.0}
LEFT = {"recompute": 0.0, "drop": 0.4, "shift": 0.3, "influence 32": 0.08, "shift+influence 32": 0.02}


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
    assert only(defaults(*rows(LEFT | {"influence 32": 0.11}, {})[:1], [], latency)) == "shift+influence 32"


def test_what_is_left_is_judged_over_all_span_lengths() -> None:
    fidelity, latency = rows(LEFT, MILLISECONDS)
    longer = [row.model_copy(update={"span": 256}) for row in rows(LEFT | {"influence 32": 0.13}, {})[0][-5:]]
    assert only(defaults([*fidelity, *longer], [], latency)) == "influence 32"
    worst = [row.model_copy(update={"span": 256}) for row in rows(LEFT | {"influence 32": 0.15}, {})[0][-5:]]
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


def test_candidates_carry_the_calibrated_settings() -> None:
    settings = InfluenceSettings(probe_layers=(1,), combine="max", normaliser="none", share=0.9)
    found = candidates(settings)
    assert {eraser.name for eraser in found.values()} == set(ERASERS)
    chosen = found["shift+influence 64"]
    assert isinstance(chosen, ShiftInfluence)
    assert (chosen.label, chosen.combine, chosen.normaliser) == ("shift+influence 64", "max", "none")


def table(**worth: float) -> dict[Setting, float]:
    """Layer 1 is worth .8 and layer 0 .5 with softmax, pairs .8; changed by what is given."""
    found = {Setting((layer,), "mean", name): 0.5 for layer in (0, 1) for name in NORMALISERS}
    found |= {Setting((0, 1), "mean", "softmax"): 0.8, Setting((0, 1), "max", "softmax"): worth.get("max", 0.8)}
    found |= {Setting((1,), "mean", name): worth.get(name, 0.7) for name in NORMALISERS}
    return found | {Setting((1,), "mean", "softmax"): 0.8}


def test_the_cheapest_setting_that_is_worth_as_much_is_chosen() -> None:
    assert choose(table()) == Setting((1,), "mean", "softmax")
    assert choose(table(sampled=0.795)) == Setting((1,), "mean", "sampled")
    assert choose(table(sampled=0.795, none=0.795)) == Setting((1,), "mean", "none")
    assert choose(table(max=0.84)) == Setting((1,), "mean", "softmax")
    assert choose(table(max=0.86)) == Setting((0, 1), "max", "softmax")


def test_layers_are_found_on_a_model() -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=(0, 1))
    cases = text_cases([i * i % 250 for i in range(400)], [], 12, 100, Random(0))
    done: list[int] = []
    settings, layers = choose_layers(engine, [next(cases) for _ in range(3)], lambda: done.append(1))
    assert len(done) == 3
    assert {(row.layer, row.normaliser) for row in layers} == {(i, name) for i in (0, 1) for name in NORMALISERS}
    assert all(0 < row.share <= 1 for row in layers)
    assert settings.share >= max(row.share for row in layers if row.normaliser == "softmax") - 0.01


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
