"""Budgets: what they mean in tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory.erasers.budget import Budget, Rates
from kv_memory.errors import ArgumentError, KVMemoryError
from tests.tiny import tiny_engine

ENGINE = tiny_engine()


class Known(Rates):
    """Rates by which a millisecond is three tokens, and half of what is left is gone with each tenth."""

    def tokens_within(self, eraser: str, milliseconds: float, following: int) -> int | None:
        return int(3 * milliseconds)

    def share_leaving(self, eraser: str, left: float, following: int) -> float | None:
        return 0.2 if left >= 0.25 else None


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [(32, 32), ("32", 32), ("25%", 250), ("0.1%", 1), ("50 ms", 150), (".3 left", 200), (5000, 1000)],
)
def test_a_budget_is_a_number_of_tokens(budget: Any, tokens: int) -> None:
    assert Budget.of(budget).tokens(ENGINE, "repair", 1000, Known()) == tokens


@pytest.mark.parametrize(
    "budget", ["", "x", "-3", "1.5", "0%", "101%", "0ms", "5 s", True, None, 2.5, "25%%", "left", "nan"]
)
def test_anything_else_is_refused(budget: Any) -> None:
    with pytest.raises(ArgumentError, match="25%"):
        Budget.of(budget)


def test_no_more_is_saved_than_a_pass_costs() -> None:
    engine = tiny_engine()
    engine.free_tokens = 256
    counts = [Budget.of(budget).tokens(engine, "repair", 1000, Known()) for budget in ("10%", "30%", "10ms", 32)]
    assert counts == [256, 300, 256, 32]
    assert Budget.of("10%").tokens(engine, "repair", 100) == 100


@pytest.mark.parametrize(("budget", "rates"), [("50ms", None), ("0.05 left", None), ("0.1 left", Known())])
def test_a_time_or_a_target_needs_measurements(budget: str, rates: Rates | None) -> None:
    with pytest.raises(KVMemoryError, match=rf"A budget of {budget} needs a calibration .* kv-memory calibrate"):
        Budget.of(budget).tokens(ENGINE, "repair", 1000, rates)


@given(st.floats(0, 100, exclude_min=True), st.integers(0, 5000))
def test_a_share_is_never_less_than_asked_for_nor_more_than_there_is(share: float, following: int) -> None:
    tokens = Budget(share, "%").tokens(ENGINE, "repair", following)
    assert share / 100 * following <= tokens <= following or tokens == following


@given(st.one_of(st.integers(0, 10**6), st.sampled_from(["25%", "0.5%", "50ms", "0.05 left", "12.5%"])))
def test_a_budget_reads_what_it_writes(given_budget: int | str) -> None:
    budget = Budget.of(given_budget)
    assert Budget.of(str(budget)) == budget
