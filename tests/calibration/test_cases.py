"""Cases: spans and suffixes of the lengths that were asked for, and questions as a session would put them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from kv_memory import Memory
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.base import Engine
from kv_memory.errors import ConversationError
from kv_memory.evaluation.calibrate import cases as cases_module
from kv_memory.evaluation.cases import Case, again
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.evaluation.suites.worlds import world_cases
from kv_memory.synthetic.worlds import Probe, make_world
from tests.tiny import tiny_engine

IDS = list(range(1000))


@pytest.mark.parametrize(("span", "following"), [(1, 1), (4, 30), (64, 500)])
def test_a_text_case_has_the_lengths_that_were_asked_for(span: int, following: int) -> None:
    cases = text_cases(IDS, [7], span, following, Random(0))
    for case in (next(cases) for _ in range(20)):
        (start, end), at = case.spans[0], case.ids[1]
        assert (case.erased, case.following, end - start) == (span, following, span)
        assert case.ids == (7, *range(at, at + len(case.ids) - 1))
        assert case.kept == [*case.ids[:start], *case.ids[end:]]
        assert case.tail == ()
        assert case.scored == (*case.ids[start - 8 : min(start + 16, end)], *case.ids[end : end + 8])


def test_the_same_seed_gives_the_same_cases() -> None:
    first, second = (text_cases(IDS, [], 4, 30, Random(3)) for _ in range(2))
    assert [next(first) for _ in range(5)] == [next(second) for _ in range(5)]


def test_a_text_that_is_too_short_is_refused_at_once() -> None:
    with pytest.raises(ConversationError, match=r"has 1,000 tokens; 1,217 are needed for a span of 64 with 990"):
        text_cases(IDS, [], 64, 990, Random(0))


def test_a_span_at_the_start_is_read_again_without_what_stands_before_it() -> None:
    assert again(tuple(range(30)), (2, 5)) == (0, 1, 2, 3, 4, *range(5, 13))


def test_a_question_is_what_a_session_would_read() -> None:
    memory = Memory(tiny_engine(max_positions=8192))
    world = make_world(3, 400, "test")
    for probe, case in zip(world.probes, world_cases(memory.format, world, world.probes), strict=True):
        read, never = memory.session(f"{probe}"), memory.session(f"{probe}, never saw")
        read.prefill(world.messages, world.tools)
        never.prefill(world.messages, world.tools, without=[probe.target])
        asked = memory.session(f"{probe}, asked")
        asked.prefill([*world.messages, {"role": "user", "content": probe.question}], world.tools)
        tokens = [memory.engine.tokens(s.branches.latest.seq) for s in (read, never, asked) if s.branches.latest]
        assert [list(case.ids), case.kept] == tokens[:2]
        assert [*case.ids, *case.tail][: len(tokens[2])] == tokens[2]
        assert case.answer == probe.without


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ('<tool_call>\n{"name": "book", "arguments": {"b": 2, "a": 1}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "book", "arguments": {"a": 1}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "look", "arguments": {"a": 1, "b": 2}}\n</tool_call>', False),
        ('{"a": 1, "b": 2}', False),
    ],
)
def test_a_tool_call_is_right_whatever_the_order_of_its_arguments(said: str, right: bool) -> None:
    case = Case("call", (1,), ((0, 1),), (2,), answer='{"a": 1, "b": 2}', call="book")
    assert case.right(said) is right


def test_an_answer_is_right_when_it_is_the_value_alone() -> None:
    case = Case("keep", (1,), ((0, 1),), (2,), answer="42")
    assert [case.right(said) for said in ("42", " 42\n", "It is 42.")] == [True, True, False]
    assert not Case("text", (1,), ((0, 1),), (2,)).right("")


def test_probes_of_every_kind_become_cases() -> None:
    form = ChatFormat(tiny_engine().tokenizer)
    world = make_world(0, 400, "test")
    target = world.messages[1]["id"]
    probe = Probe("call", target, "Do it.", "{}", '{"a": 1}', "book")
    case = next(world_cases(form, world, [probe]))
    assert (case.kind, case.answer, case.call) == ("call", '{"a": 1}', "book")


@pytest.mark.parametrize(
    ("said", "right", "misled"),
    [
        ("The population is 3559 people.", True, False),
        ("3,559", True, False),
        ("It was 1,647 in 1890.", False, True),
        ("It was 1,647 and is 3,559 people.", True, False),
        ("It was 13,559.", False, False),
        ("", False, False),
    ],
)
def test_an_answer_in_a_sentence_is_right_where_others_are_known(said: str, right: bool, misled: bool) -> None:
    case = Case("qa", (1,), ((0, 1),), (2,), answer="3,559 people", aliases=("3559",), wrong=("1,647",))
    assert (case.right(said), case.misled(said)) == (right, misled)


@pytest.mark.parametrize(
    ("nats", "chosen"),
    [
        ([0.5, 0.0, 0.02, 0.3, 0.4], [0, 2]),  # the first two that are changed
        ([0.0, 0.001, 0.02, 0.003, 0.0, 0.0, 0.9], [2, 3]),  # six are tried, and the most changed fills up
        ([0.0], [0]),
    ],
)
def test_a_calibration_takes_cases_that_the_span_changes(
    nats: list[float], chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [Case(str(number), (1, 2, 3), ((0, 1),)) for number in range(len(nats))]

    @contextmanager
    def known(engine: Engine, case: Case, tokens: int) -> Iterator[Any]:
        """Stand for a trial whose divergence is known."""
        yield SimpleNamespace(run=lambda eraser: SimpleNamespace(kl=nats[int(case.kind)]))

    monkeypatch.setattr(cases_module, "trial", known)
    found = cases_module.changed(tiny_engine(), iter(made), 2)
    assert [int(case.kind) for case in found] == chosen
