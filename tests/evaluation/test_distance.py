"""The suite of distances: how far the dependent text is from the span, and that nothing else differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.evaluation.suites import distance as module
from kv_memory.evaluation.suites.distance import distance
from kv_memory.evaluation.suites.source import Source
from kv_memory.testing.chat import tiny_tokenizer
from tests.evaluation.reading import FORM, TINY, check, erased, text, turns
from tests.evaluation.suites import first
from tests.tiny import STRICT

SOURCE = Source(FORM, split=None)
CASES = first(distance, SOURCE, 3 * 12)
"""Of every story twice: with a message and with a tool result as the span."""


def test_every_conversation_has_a_case_of_each_distance() -> None:
    check(CASES, SOURCE, "distance")
    assert [case.groups["distance"] for case in CASES] == [0, 250, 1500] * 12
    assert [case.conversation for case in CASES] == [str(n) for n in range(12) for _ in range(3)]
    assert [case.kind for case in CASES[::3]] == ["alias", "look-up"] * 6


def test_the_dependent_text_is_as_far_from_the_span_as_was_asked_for() -> None:
    for number in range(0, len(CASES), 3):
        near, *others = [[content for _, content in turns(case.ids)] for case in CASES[number : number + 3]]
        span = next(place for place, content in enumerate(near) if erased(CASES[number]) in content)
        dependent = near[span + 2]
        for case, contents in zip(CASES[number : number + 3], [near, *others], strict=True):
            assert contents.count(dependent) == 1
            said = tuple(TINY(dependent, add_special_tokens=False)["input_ids"])
            at = next(at for at in range(len(case.ids)) if case.ids[at : at + len(said)] == said)
            assert 0 <= at - case.spans[-1][1] - float(case.groups["distance"]) <= 200  # two pairs of messages
            assert len(case.ids) - at - len(said) >= module.AFTER


def test_the_distances_of_one_conversation_have_the_same_messages() -> None:
    for number in range(0, len(CASES), 3):
        three = CASES[number : number + 3]
        assert len({(case.following, case.erased, case.tail, case.answer) for case in three}) == 1
        assert len({tuple(sorted(turns(case.ids))) for case in three}) == 1


def test_the_span_is_a_message_or_a_tool_result_and_nothing_else() -> None:
    for case in CASES:
        assert erased(case).startswith("That has changed. ")
        emptied = [(role, content.replace(erased(case), "")) for role, content in turns(case.ids)]
        assert turns(case.kept) == emptied
        assert bool(case.corrected) and case.corrected != case.tail
    assert sum("<tool_response>" in text(case.ids) for case in CASES) == 18


def test_only_the_first_text_gives_the_right_answer_without_the_span() -> None:
    for case in CASES:
        assert case.answer is not None
        assert case.answer in text(case.kept)
        assert case.right(f"It is {case.answer}.")
        assert case.misled(f"It is {case.wrong[0]}.")


def test_a_seed_decides_the_cases() -> None:
    assert first(distance, SOURCE, 3) == CASES[:3]
    assert first(distance, replace(SOURCE, seed=1), 3) != CASES[:3]


def test_what_is_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONVERSATIONS", 2)
    assert not list(distance(replace(SOURCE, longest=1500)))


def test_a_template_without_tools_is_read_as_the_chat_format_reads_it() -> None:
    source = Source(ChatFormat(HFTokenizer(tiny_tokenizer(STRICT))), split=None)
    check(first(distance, source, 3 * 7), source, "distance")
