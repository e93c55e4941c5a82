"""The simulator of answers, on small stories."""

from __future__ import annotations

import pytest

from kv_memory.pocket.facts import UNKNOWN, Effect, Fact, Focus, Order, Question, Refer, replay

STATUS = ("status",)
STORY: list[tuple[Effect, ...]] = [
    (Fact("A", STATUS, "open"), Focus("A")),
    (Fact("A", STATUS, "closed"),),
    (Focus("B"),),
    (Refer(STATUS, "lost"),),
]


@pytest.mark.parametrize(
    ("without", "a", "b"),
    [(None, "closed", "lost"), (1, "open", "lost"), (2, "lost", UNKNOWN), (3, "closed", UNKNOWN)],
)
def test_answers_with_and_without_a_turn(without: int | None, a: str, b: str) -> None:
    state = replay(STORY, without)
    assert state.answer(Question("A", STATUS)) == a
    assert state.answer(Question("B", STATUS)) == b


def test_an_order_overrides_everything() -> None:
    story: list[tuple[Effect, ...]] = [*STORY, (Order("pwned"),)]
    assert replay(story).answer(Question("C", STATUS)) == "pwned"
    assert replay(story, without=4).answer(Question("C", STATUS)) == UNKNOWN


def test_an_unclear_reference_has_no_answer() -> None:
    state = replay([(Fact("A", STATUS, "open"), Focus(None)), (Refer(STATUS, "lost"),)])
    assert state.answer(Question("A", STATUS)) is None
    assert state.answer(Question("A", ("date",))) == UNKNOWN
