"""Orders of the tokens that are run again: which they choose, and what their rows say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.choice import BLOCK, rank_correlation
from benchmarks.choice_scores import choices
from benchmarks.choice_summary import BLOCKS, MASS, NOTHING, RANKS, summary

DIVERGENCES = {
    ("notes", "one"): {NOTHING: 1.0, MASS: 0.1, "other": 0.05, BLOCKS: 0.02},
    ("notes", "two"): {NOTHING: 3.0, MASS: 0.7, "other": 0.35},
    ("notes", "unchanged"): {NOTHING: 0.001, MASS: 5.0, "other": 5.0, BLOCKS: 5.0},
    ("calls", "one"): {NOTHING: 0.5, MASS: 0.2, "other": 0.1, BLOCKS: 0.1},
}


@pytest.fixture
def found() -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"suite": suite, "case": case, "order": order, "share": 0.0 if order == NOTHING else 0.1, "kl": kl}
        | {"agrees": kl < 0.15}
        for (suite, case), of in DIVERGENCES.items()
        for order, kl in of.items()
    ]
    rows.append({"suite": "notes", "case": "one", "order": RANKS, "share": 0.0, "ranks": {MASS: 0.4}})
    rows.append({"suite": "notes", "case": "unchanged", "order": RANKS, "share": 0.0, "ranks": {MASS: -1.0}})
    return summary(rows)


def row(found: dict[str, Any], order: str) -> dict[str, Any]:
    (only,) = [row for row in found["orders"] if row["order"] == order]
    return dict(only)


def test_cases_that_the_span_does_not_change_are_left_out(found: dict[str, Any]) -> None:
    assert found["cases"] == {"calls": 1, "notes": 2}
    assert found["rank_correlations"] == {MASS: 0.4}


def test_what_is_left_is_the_ratio_of_means_by_suite_and_the_mean_of_suites(found: dict[str, Any]) -> None:
    mass = row(found, MASS)
    assert (mass["notes"][0], mass["notes"][3], mass["calls"][0]) == (0.2, 0.5, 0.4)
    assert mass["notes"][1] <= 0.2 <= mass["notes"][2]
    assert mass["mean"][0] == pytest.approx(0.3)


def test_an_order_is_compared_with_mass_on_its_own_cases(found: dict[str, Any]) -> None:
    assert row(found, "other")["of_mass"] == [0.5, 0.5, 0.5]
    assert row(found, BLOCKS)["of_mass"][0] == pytest.approx((0.02 + 0.1 / 0.5) / (0.1 + 0.2 / 0.5), rel=0.01)


def test_all_orders_are_judged_on_the_cases_in_which_blocks_were_tried(found: dict[str, Any]) -> None:
    assert found["cases_tried"] == {"calls": 1, "notes": 1}
    tried = {order: row(found, order)["where_tried"] for order in (MASS, "other", BLOCKS)}
    assert tried == {MASS: 0.25, "other": 0.125, BLOCKS: 0.11}


def test_every_order_chooses_as_many_tokens_as_it_is_given() -> None:
    random = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(40, generator=random) for name in (MASS, "mass, middle layer", "mass x root received")}
    among = torch.rand(4, 40, 40, generator=random).half()
    chosen = choices(scores, among, torch.rand(4, 40, generator=random), 10)
    assert {name: len(set(tokens)) for name, tokens in chosen.items()} == dict.fromkeys(chosen, 10)
    assert chosen["a third first, then mass"][:3] == [0, 1, 2]
    assert chosen[MASS] == sorted(scores[MASS].topk(10).indices.tolist())


def test_a_score_that_ranks_blocks_as_their_gain_does_correlates_fully() -> None:
    gain = torch.tensor([0.1, 0.5, 0.3])
    score = gain.repeat_interleave(BLOCK)
    assert rank_correlation(gain, score) == pytest.approx(1)
    assert rank_correlation(gain, -score) == pytest.approx(-1)
