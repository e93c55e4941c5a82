"""The choice of eraser: by targets, by the calibration, by the reason; and what it says of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.calibration.decide import measured as measured_by
from kv_memory.calibration.rates import MeasuredRates
from kv_memory.calibration.record import Agreement, Calibration, Latency
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.policy import EXACT_UP_TO, Candidate, Category, Policy, choose, default_eraser
from kv_memory.policy.choose import as_named
from tests.policy.figures import agreed, calibrations, engine, left, measured, took
from tests.tiny import tiny_engine

KNOWN = measured(
    *(took("recompute", 100), left("recompute", 0)),
    *(took("drop", 1), left("drop", 0.4), agreed("drop", 80)),
    *(took("influence 32", 30), left("influence 32", 0.08), agreed("influence 32", 97)),
    *(took("shift+influence 32", 40), left("shift+influence 32", 0.02), agreed("shift+influence 32", 100)),
    *(took("steer", 5), agreed("influence 16", 99)),
    default="influence 32",
    following=500,
)


def chosen(
    policy: dict[str, Any], reason: str = "", calibration: Calibration | None = KNOWN, following: int = 600
) -> str:
    return choose(engine(), 20, following, calibration=calibration, policy=Policy.of(policy), reason=reason).name


def without(*capabilities: str) -> TransformersEngine:
    other = tiny_engine()
    for capability in capabilities:
        other.ruled_out[capability] = "for this test"
    return other


def test_without_targets_the_calibration_chooses() -> None:
    assert chosen({}) == "influence 32"
    assert chosen({}, following=499) == "recompute", "below the shortest length measured"
    lacking = choose(without("influence"), 20, 600, calibration=KNOWN)
    assert lacking.name == "recompute"
    assert "this engine cannot do what the calibration chose" in lacking.why


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ({"residual": 0.1}, "influence 32"),
        ({"residual": 0.05}, "shift+influence 32"),
        ({"residual": 0.1, "agreement": 0.99}, "shift+influence 32"),
        ({"residual": 0.001}, "recompute"),
        ({"latency_ms": 200}, "recompute"),
        ({"latency_ms": 50}, "shift+influence 32"),
        ({"latency_ms": 35}, "influence 32"),
        ({"latency_ms": 5}, "drop"),
        ({"latency_ms": 0.5}, "drop"),
        ({"latency_ms": 5, "residual": 0.1}, "influence 32"),
        ({"latency_ms": 5, "residual": 0.001}, "recompute"),
    ],
)
def test_targets(policy: dict[str, Any], name: str) -> None:
    assert chosen(policy) == name


def test_an_approximation_that_is_hardly_faster_is_not_worth_it() -> None:
    close = measured(took("recompute", 100), took("drop", 95), left("drop", 0.01))
    assert chosen({"residual": 0.1}, calibration=close) == "recompute"
    assert (
        "it is not exact, and hardly faster"
        in choose(engine(), 20, 600, calibration=close, policy=Policy(residual=0.1)).explain()
    )


def test_the_nearest_lengths_count() -> None:
    lengths = measured(
        *(took("recompute", ms, following) for ms, following in ((5, 64), (500, 4096))),
        *(took("drop", 1, following) for following in (64, 4096)),
        *(left("drop", 0.5, 64, 16), left("drop", 0.05, 64, 256), left("drop", 0.01, 4096, 16)),
    )

    def at(span: int, following: int) -> str:
        return choose(engine(), span, following, calibration=lengths, policy=Policy(residual=0.1)).name

    assert [at(16, 64), at(500, 64), at(16, 9000), at(1, 0)] == ["recompute", "drop", "drop", "recompute"]


def test_the_worst_class_of_enough_questions_counts() -> None:
    rows: list[Latency | Agreement] = [
        took("recompute", 100),
        took("drop", 1),
        agreed("drop", 100),
        agreed("drop", 9, 10, "yes or no"),
    ]
    few = agreed("drop", 0, 9, "few")
    assert chosen({"agreement": 0.95}, calibration=measured(*rows, few)) == "recompute"
    assert chosen({"agreement": 0.9}, calibration=measured(*rows, few)) == "drop"
    assert chosen({"agreement": 0.9}, calibration=measured(*rows[:2], few)) == "recompute", "not measured"


def test_security_is_exact_unless_the_policy_says_otherwise() -> None:
    assert chosen({"latency_ms": 5}, "security: an injected instruction") == "recompute"
    assert chosen({"latency_ms": 5, "categories": {"security": {"exact": False}}}, "security") == "drop"
    assert chosen({"latency_ms": 5, "categories": {"privacy": {"exact": True}}}, "privacy") == "recompute"
    assert chosen({"latency_ms": 5, "categories": {"stale": {"latency_ms": 35}}}, "stale") == "influence 32"
    assert chosen({"latency_ms": 5, "categories": {"stale": {"latency_ms": 35}}}, "error") == "drop"


def test_without_a_calibration() -> None:
    few, many = (choose(engine(), 20, following) for following in (EXACT_UP_TO, EXACT_UP_TO + 1))
    assert (few.name, many.name) == ("recompute", "shift+influence")
    assert "there is no calibration of this model" in few.explain()
    assert "there is no calibration of this model" in many.explain()
    assert choose(without("shift"), 20, 500).name == "influence"
    assert choose(without("influence"), 20, 500).name == "recompute"
    assert choose(engine(), 20, 500, reason="security").name == "recompute"
    late = choose(engine(), 20, 500, policy=Policy(latency_ms=1))
    assert late.name == "shift+influence"
    assert "no calibration of this model to check the latency target by" in late.why
    strict = choose(engine(), 20, 500, policy=Policy(residual=0.5))
    assert strict.name == "recompute"
    assert "only an exact eraser is known to meet the fidelity target" in strict.why


def test_a_share_is_chosen_as_what_it_left() -> None:
    shares = {"5%": (10, 0.4), "15%": (30, 0.2), "25%": (50, 0.08), "50%": (90, 0.01)}
    rows = [
        row
        for share, (milliseconds, high) in shares.items()
        for row in (took(f"shift+influence {share}", milliseconds), left(f"shift+influence {share}", high))
    ]
    known = measured(took("recompute", 200), *rows, default="shift+influence 25%")
    assert chosen({}, calibration=known) == "shift+influence 25%"
    assert chosen({"residual": 0.1}, calibration=known) == "shift+influence 25%"
    assert chosen({"residual": 0.05}, calibration=known) == "shift+influence 50%"
    assert chosen({"latency_ms": 35}, calibration=known) == "shift+influence 15%"
    eraser = choose(engine(), 20, 600, calibration=known).eraser
    assert (eraser.label, vars(eraser)["normaliser"]) == ("shift+influence 25%", known.influence.normaliser)


@pytest.mark.parametrize("rates", [None, MeasuredRates(KNOWN)])
def test_the_figures_of_an_eraser_that_is_named_are_found_by_what_it_does(rates: MeasuredRates | None) -> None:
    one = Influence(32, normaliser=KNOWN.influence.normaliser, rates=rates)
    choice = as_named(engine(), one, 20, 600, calibration=KNOWN)
    assert (choice.name, choice.residual) == ("influence 32", 0.04)
    for other in (Influence(33, normaliser=KNOWN.influence.normaliser), Influence(32, normaliser="none")):
        assert as_named(engine(), other, 20, 600, calibration=KNOWN).residual is None


def test_the_default_eraser_is_the_choice_without_a_policy() -> None:
    assert isinstance(default_eraser(engine(), 10), Recompute)
    assert isinstance(default_eraser(engine(), 1000), Influence)
    assert isinstance(default_eraser(engine(), 10, measured(default="drop")), Drop)


def test_erasers_of_ones_own() -> None:
    mine = {"mine": Influence(7), "drop": Drop()}
    figures = measured(took("mine", 3), left("mine", 0.01))
    choice = choose(engine(), 20, 600, calibration=figures, policy=Policy(residual=0.1), erasers=mine)
    assert choice.eraser is mine["mine"]
    assert [other.name for other, _ in choice.rejected] == ["drop", "recompute"], "something exact can always be done"


def test_the_explanation_names_figures_and_reasons() -> None:
    text = choose(engine(), 20, 600, calibration=KNOWN, policy=Policy(latency_ms=35, residual=0.1)).explain()
    lines = {line.split(":")[0]: line for line in text.splitlines()}
    assert text.startswith("influence 32: chosen, of those that meet the targets it leaves least behind")
    assert "influence 0.04 [95 %: 0 to 0.08] with 16 tokens and 512 after them" in lines["influence 32"]
    assert "agreement 0.97 [95 %: 0.915 to 0.99] on 100 questions of the class 'binding'" in lines["influence 32"]
    assert "30 ms with 16 tokens and 512 after them" in lines["influence 32"]
    assert "its 100 ms are over the target of 35 ms" in lines["recompute"]
    assert "its residual influence may be 0.4, over the target of 0.1" in lines["drop"]
    assert "the engine has no trained eraser loaded" in lines["steer"]
    assert "its residual influence was not measured and its time was not measured" in lines["influence 16"]
    exact = choose(engine(), 20, 600, calibration=KNOWN, policy=Policy(latency_ms=5), reason="security").explain()
    assert "although its 100 ms are over the target of 5 ms" in exact.splitlines()[0]


policies = st.builds(
    Policy,
    latency_ms=st.none() | st.floats(0.1, 1000),
    residual=st.none() | st.floats(0, 1),
    agreement=st.none() | st.floats(0, 1),
)
lengths = st.integers(0, 10_000)


def all_candidates(choice: Any) -> list[Candidate]:
    return [choice.chosen, *(other for other, _ in choice.rejected)]


def meets(candidate: Candidate, policy: Policy, *, time: bool = True) -> bool:
    """By the figures alone."""
    rows = candidate.figures
    exact = candidate.eraser.exact
    faithful = (
        policy.residual is None or exact or bool(rows.fidelity and rows.fidelity.residual.high <= policy.residual)
    )
    agrees = (
        policy.agreement is None or exact or bool(rows.agreement and rows.agreement.agree.value >= policy.agreement)
    )
    quick = policy.latency_ms is None or bool(rows.latency and rows.latency.milliseconds <= policy.latency_ms)
    return faithful and agrees and (quick or not time)


@settings(max_examples=200, deadline=None)
@given(calibration=calibrations(), policy=policies, span=lengths, following=lengths)
def test_no_target_is_missed_that_some_eraser_meets(
    calibration: Calibration, policy: Policy, span: int, following: int
) -> None:
    if (policy.latency_ms, policy.residual, policy.agreement) == (None, None, None):
        return
    choice = choose(engine(), span, following, calibration=calibration, policy=policy)
    known = [*measured_by(calibration), "recompute"]
    able = [c for c in all_candidates(choice) if not c.eraser.lacking(engine())]
    assert choice.chosen in able
    if any(meets(c, policy) for c in able):
        assert meets(choice.chosen, policy)
    assert meets(choice.chosen, policy, time=False), "fidelity comes first"
    assert choice == choose(
        engine(),
        span,
        following,
        calibration=calibration,
        policy=policy,
        erasers={c.name: c.eraser for c in sorted(all_candidates(choice), key=lambda c: known.index(c.name))},
    )


@settings(max_examples=100, deadline=None)
@given(calibration=st.none() | calibrations(), policy=policies, span=lengths, following=lengths)
def test_security_is_exact_whatever_the_targets(
    calibration: Calibration | None, policy: Policy, span: int, following: int
) -> None:
    choice = choose(engine(), span, following, calibration=calibration, policy=policy, reason=Category.SECURITY)
    assert choice.eraser.exact


@settings(max_examples=100, deadline=None)
@given(
    calibration=st.none() | calibrations(),
    policy=policies,
    reason=st.sampled_from(Category),
    span=lengths,
    following=lengths,
)
def test_the_explanation_names_every_candidate_once(
    calibration: Calibration | None, policy: Policy, reason: Category, span: int, following: int
) -> None:
    choice = choose(engine(), span, following, calibration=calibration, policy=policy, reason=reason)
    said = [line.split(":")[0] for line in choice.explain().splitlines()]
    known = {"recompute", *(measured_by(calibration) if calibration else ("influence", "shift+influence"))}
    assert sorted(said) == sorted(known)
    assert said[0] == choice.name
    assert all(why for _, why in choice.rejected)
