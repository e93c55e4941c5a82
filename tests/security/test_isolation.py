"""What one session holds does not show in another, however their calls are interleaved."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import isolation, record
from tests.security.isolation import Looked, look, make_case, summarise


def test_sessions_do_not_see_each_other() -> None:
    found = summarise(look(range(80), seed=0))
    assert found.failures == ()
    assert found.noticed >= 0.8 * found.controls  # a session's own text shows: the test can see


def test_cases_are_the_same_every_time_and_cover_evictions() -> None:
    assert make_case(3) == make_case(3) != make_case(4)
    assert any(make_case(seed).cache_tokens for seed in range(20))


def test_a_case_in_which_something_shows_is_a_failure() -> None:
    (failure,) = summarise([Looked(2, 0.0, None), Looked(3, 1.0, None)]).failures
    assert failure.startswith("case 3")


def test_the_benchmark_writes_what_they_came_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "RAW", tmp_path / "raw")
    monkeypatch.setattr(sys, "argv", ["isolation", "--cases", "6"])
    isolation.main()
    result = json.loads((tmp_path / "isolation.json").read_text())
    parts = [result["isolation"], *result["spoofing"].values()]
    assert (len(result["spoofing"]), result["isolation"]["cases"]) == (6, 6)
    assert [part["failures"] for part in parts] == [[]] * 7
    assert sum(part["cases"] for part in parts) == 12
    broken = result | {"isolation": result["isolation"] | {"failures": ["case 3"]}}
    monkeypatch.setattr(isolation, "measure", lambda *_: broken)
    with pytest.raises(SystemExit, match="case 3"):
        isolation.main()
