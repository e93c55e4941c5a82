"""The simulator of answers, on small stories."""

from __future__ import annotations

import pytest

from kv_memory.synthetic.facts import UNKNOWN, Claim, Effect, Fact, Focus, Listing, Order, Question, Refer, Wish, replay

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


def test_that_thing_is_the_latest_of_its_kind() -> None:
    story: list[tuple[Effect, ...]] = [
        (Focus("A", "order"), Focus("A")),
        (Focus("B", "order"), Focus("B")),
        (Focus("U", "user"), Focus("U")),
        (Refer(STATUS, "lost", "order"),),
    ]
    assert replay(story).answer(Question("B", STATUS)) == "lost"
    assert replay(story).answer(Question("U", STATUS)) == UNKNOWN
    assert replay(story, without=1).answer(Question("A", STATUS)) == "lost"


@pytest.mark.parametrize(("place", "right"), [(1, "D"), (-1, "E")])
def test_a_place_is_that_of_the_latest_list(place: int, right: str) -> None:
    story: list[tuple[Effect, ...]] = [
        (Listing("order", ("A", "B")),),
        (Listing("order", ("C", "D", "E")),),
        (Refer(STATUS, "lost", "order", place),),
    ]
    assert replay(story).answer(Question(right, STATUS)) == "lost"
    assert replay(story, without=1).answer(Question("B", STATUS)) == "lost"


def test_two_hops() -> None:
    story: list[tuple[Effect, ...]] = [(Fact("A", ("owner",), "B"),), (Fact("B", STATUS, "open"),)]
    question = Question("A", STATUS, link=("owner",))
    assert replay(story).answer(question) == "open"
    assert replay(story, without=0).answer(question) == replay(story, without=1).answer(question) == UNKNOWN


def test_what_the_assistant_said_counts_only_where_no_text_says_otherwise() -> None:
    story: list[tuple[Effect, ...]] = [(Fact("A", STATUS, "open"),), (Claim("A", STATUS, "closed"),)]
    assert replay(story).answer(Question("A", STATUS)) == "open"
    assert replay(story, without=0).answer(Question("A", STATUS)) == "closed"


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        (Wish("capitals"), "OPEN"),
        (Wish("call me", "Ada"), "open, Ada"),
        (Wish("begin with", "so"), "so open"),
        (Wish("quote"), '"open"'),
        (Wish("plain"), "open"),
    ],
)
def test_a_wish_is_about_the_form_of_answers(wish: Wish, answer: str) -> None:
    story: list[tuple[Effect, ...]] = [(Fact("A", STATUS, "open"),), (Wish("bracket"),), (wish,)]
    assert replay(story).answer(Question("A", STATUS)) == answer
    assert replay(story, without=2).answer(Question("A", STATUS)) == "[open]"
