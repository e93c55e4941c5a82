"""Many sessions at once, for a short while; benchmarks/load.py runs the same for ten minutes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.load import Load
from tests.tiny import tiny_engine


def test_each_session_is_as_if_it_had_been_alone(measured: Callable[[str], None]) -> None:
    load = Load(tiny_engine(), seed=0)
    load.run(8)
    assert load.errors == []
    assert load.differences() == []
    answers = sum(len(story.answers) for story in load.over)
    assert answers > 50
    measured(f"load: {load.done} steps and {answers} answers in 8 s, as if each session had been alone")
