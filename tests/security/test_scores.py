"""Exposure, AUC and threshold against counting."""

from __future__ import annotations

from random import Random

import pytest

from kv_memory.evaluation.leakage.scores import auc, exposure, threshold


def test_exposure_is_the_rank_in_bits() -> None:
    others = [-float(i) for i in range(1, 64)]
    assert exposure([0.0, *others]) == 6
    assert exposure([-100.0, *others]) == 0
    assert exposure([-31.5, *others]) == 1  # 32nd of 64
    assert exposure([-5.0] * 64) == pytest.approx(0.977, abs=1e-3)  # in the middle of equals


def test_auc_counts_pairs() -> None:
    rng = Random(0)
    yes = [float(rng.randrange(10)) for _ in range(40)]
    no = [float(rng.randrange(8)) for _ in range(30)]
    pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    assert auc(yes, no) == pytest.approx(sum(pairs) / len(pairs))


def test_at_most_one_in_a_hundred_is_above_the_threshold() -> None:
    scores = [float(i) for i in range(250)]
    assert sum(score > threshold(scores) for score in scores) == 2
    assert sum(score > threshold(scores[:50]) for score in scores[:50]) == 0
