"""The suite of copying and abstention: what is kept is asked for word for word, and what is gone is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kv_memory.evaluation.suites.copying import abstains, copying
from kv_memory.evaluation.suites.source import Source
from tests.evaluation.reading import FORM, check, erased, text, turns
from tests.evaluation.suites import first

SOURCE = Source(FORM)
CASES = first(copying, SOURCE, 16)


def test_kinds_and_places_take_turns() -> None:
    check(CASES, SOURCE, "copy")
    assert [(c.kind, c.groups["place"]) for c in CASES[:4]] == [
        ("copy", "near"),
        ("gone", "near"),
        ("copy", "far"),
        ("gone", "far"),
    ]
    assert CASES[0].conversation == CASES[2].conversation != CASES[4].conversation


def test_only_the_erased_message_is_missing() -> None:
    for case in CASES:
        assert turns(case.kept) == [(role, said.replace(erased(case), "")) for role, said in turns(case.ids)]
        assert case.wrong[0] in erased(case)
        assert case.wrong[0] not in text(case.kept)


def test_the_list_that_is_kept_is_the_right_answer() -> None:
    for case in (case for case in CASES if case.kind == "copy"):
        assert case.answer is not None
        assert text(case.kept).count(case.answer) == 1
        assert case.right(f"Here it is: {case.answer}.")
        assert not case.right(case.wrong[0])
        assert case.misled(case.wrong[0])


def test_what_is_gone_has_no_right_answer() -> None:
    for case in (case for case in CASES if case.kind == "gone"):
        assert case.answer is None
        assert case.misled(f"It is {case.wrong[0]}.")


def test_the_kept_message_is_near_or_far() -> None:
    for near, far in zip(CASES[::4], CASES[2::4], strict=True):
        assert 600 <= far.following - near.following <= 720
        assert (near.answer, near.wrong, near.tail) == (far.answer, far.wrong, far.tail)


def test_a_seed_decides_the_cases() -> None:
    assert first(copying, SOURCE, 16) == CASES
    assert first(copying, replace(SOURCE, seed=1), 16) != CASES


@pytest.mark.parametrize(
    "said",
    [
        "I do not know.",
        "I'm sorry, but I don't have that information.",
        "You have not told me the passcode.",
        "The member number was not mentioned.",
        "I'm not sure.",
        "I couldn\N{RIGHT SINGLE QUOTATION MARK}t find it.",
        "There is no information about that.",
        "I cannot provide the passcode.",
        "Unknown.",
    ],
)
def test_an_answer_that_says_that_it_is_not_known_abstains(said: str) -> None:
    assert abstains(said)


@pytest.mark.parametrize(
    "said", ["4471", "It is 4471.", "The bill comes to 300 dollars.", "", "I do not know, perhaps 12."]
)
def test_an_answer_that_gives_a_value_or_nothing_does_not(said: str) -> None:
    assert not abstains(said)
