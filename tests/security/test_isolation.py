"""What one session holds does not show in another, however their calls are interleaved."""

from __future__ import annotations

from kv_memory.evaluation.leakage.isolation import look, make_case, summarise


def test_sessions_do_not_see_each_other() -> None:
    found = summarise(look(range(80), seed=0))
    assert found.failures == ()
    assert found.noticed >= 0.8 * found.controls  # a session's own text shows: the test can see


def test_cases_are_the_same_every_time_and_cover_evictions() -> None:
    assert make_case(3) == make_case(3) != make_case(4)
    assert any(make_case(seed).cache_tokens for seed in range(20))
