"""The curves of a calibration: monotone, through what was measured, and nothing beyond."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.calibration.estimates import Estimate
from kv_memory.calibration.rates import MeasuredRates
from kv_memory.calibration.record import Calibration, Fidelity, Latency
from tests.calibration.test_record import RUN, calibration

BUDGETS = ("16", "64", "5%", "10%", "25%", "50%")
LENGTHS = (100, 400, 1600)
NAME = "shift+influence"

Table = dict[tuple[str, int], float]
"""Measured values by label and suffix length."""


def known(times: Table, left: Table, free: int = 1) -> Calibration:
    latency = [
        Latency(eraser=label, span=span, following=following, milliseconds=value, recomputed=0)
        for (label, following), value in times.items()
        for span in (16, 64)
    ]
    fidelity = [
        Fidelity(eraser=label, span=16, following=following, cases=1, residual=Estimate(value=value, low=0, high=9))
        for (label, following), value in left.items()
    ]
    run = RUN.model_copy(update={"free_tokens": free})
    update = {"latency": tuple(latency), "fidelity": tuple(fidelity), "latency_run": run, "fidelity_run": run}
    return calibration().model_copy(update=update)


def at(following: int, **values: float) -> Table:
    """A table of one suffix length; `shift`, or a per cent such as `p25`."""
    return {("shift" if k == "shift" else f"{NAME} {k[1:]}%", following): v for k, v in values.items()}


SIMPLE = MeasuredRates(
    known(at(100, shift=10, p10=20, p50=60) | at(400, shift=10, p10=40, p50=200), at(100, shift=0.9, p10=0.5, p50=0.1))
)


@pytest.mark.parametrize(
    ("milliseconds", "following", "tokens"),
    [
        (60, 100, 50),
        (20, 100, 10),
        (40, 100, 30),
        (15, 100, 5),
        (10, 100, 0),
        (9.9, 100, None),
        (1000, 100, 50),  # no more than was measured
        (40, 400, 40),
        (130, 250, 125),  # between two lengths: the mean of 60 and 200 ms at 50 %
        (30, 250, 25),
        (60, 40, 20),  # a shorter suffix takes no longer
        (60, 401, None),
    ],
)
def test_a_time_is_tokens(milliseconds: float, following: int, tokens: int | None) -> None:
    assert SIMPLE.tokens_within(NAME, milliseconds, following) == tokens


@pytest.mark.parametrize(
    ("left", "following", "share"),
    [(0.1, 100, 0.5), (0.3, 100, 0.3), (0.5, 100, 0.1), (0.7, 100, 0.05), (0.95, 100, 0.0), (0.09, 100, None)],
)
def test_what_may_be_left_is_a_share(left: float, following: int, share: float | None) -> None:
    assert SIMPLE.share_leaving(NAME, left, following) == (None if share is None else pytest.approx(share))


def test_below_the_shortest_length_all_tokens_are_run_again_and_beyond_the_longest_nothing_is_known() -> None:
    assert SIMPLE.share_leaving(NAME, 0.9, 99) == 1.0
    assert SIMPLE.share_leaving(NAME, 0.9, 101) is None


def test_nothing_is_known_of_an_eraser_that_was_not_measured() -> None:
    for name in ("shift+repair", "influence", "shift", "recompute"):
        assert SIMPLE.tokens_within(name, 1e9, 100) is None
        assert SIMPLE.share_leaving(name, 1, 100) is None


def test_where_more_tokens_did_worse_the_worse_value_counts() -> None:
    rates = MeasuredRates(known(at(100, p10=50, p25=30, p50=60), at(100, p10=0.1, p25=0.3, p50=0.05)))
    assert rates.tokens_within(NAME, 49, 100) is None
    assert rates.tokens_within(NAME, 50, 100) == 25
    assert rates.share_leaving(NAME, 0.1, 100) == pytest.approx(0.45)


def test_a_share_counts_as_what_the_gpu_ran() -> None:
    rates = MeasuredRates(known(at(1000, p10=20, p50=40), at(1000, p10=0.2, p50=0.1), free=256))
    assert rates.tokens_within(NAME, 20, 1000) == 256
    assert rates.share_leaving(NAME, 0.2, 1000) == pytest.approx(0.256)


def test_numbers_and_shares_are_points_of_one_curve() -> None:
    rates = MeasuredRates(known({(f"{NAME} 32", 100): 30.0, (f"{NAME} 50%", 100): 48.0}, {}))
    assert rates.tokens_within(NAME, 39, 100) == 41


values = st.dictionaries(
    st.tuples(st.sampled_from(["shift", *(f"{NAME} {budget}" for budget in BUDGETS)]), st.sampled_from(LENGTHS)),
    st.integers(1, 100_000).map(lambda hundredths: hundredths / 100),
)


@settings(max_examples=50, deadline=None)
@given(values, st.lists(st.floats(0.001, 2000), min_size=2, max_size=6), st.integers(0, 2000))
def test_more_time_is_never_fewer_tokens_and_never_more_than_was_measured(
    times: Table, given_times: list[float], following: int
) -> None:
    rates = MeasuredRates(known(times, {}))
    found = [rates.tokens_within(NAME, milliseconds, following) for milliseconds in sorted(given_times)]
    known_ones = [tokens for tokens in found if tokens is not None]
    assert found[len(found) - len(known_ones) :] == known_ones == sorted(known_ones)
    assert all(0 <= tokens <= max(following, 0) * 0.64 + 1e-6 for tokens in known_ones)
    if known_ones:
        assert min(times.values()) <= max(given_times), "less than all that was measured allows nothing"


@settings(max_examples=50, deadline=None)
@given(values, st.lists(st.floats(0.001, 2000), min_size=2, max_size=6), st.integers(0, 2000))
def test_less_left_is_never_fewer_tokens(left: Table, targets: list[float], following: int) -> None:
    rates = MeasuredRates(known({}, left))
    found = [rates.share_leaving(NAME, target, following) for target in sorted(targets)]
    known_ones = [share for share in found if share is not None]
    assert found[len(found) - len(known_ones) :] == known_ones == sorted(known_ones, reverse=True)
    assert all(share == 1 or 0 <= share <= 0.64 + 1e-6 for share in known_ones)


@settings(max_examples=50, deadline=None)
@given(values)
def test_what_was_measured_is_reached(times: Table) -> None:
    """In the time of a budget there are its tokens, and with what a budget leaves its share is enough."""
    rates = MeasuredRates(known(times, times))
    for label, following in times:
        if label != "shift":
            worst = max(v for (_, length), v in times.items() if length == following)
            tokens, share = rates.tokens_within(NAME, worst, following), rates.share_leaving(NAME, worst, following)
            assert tokens is not None and share is not None
            assert share <= tokens / following + 1e-6
