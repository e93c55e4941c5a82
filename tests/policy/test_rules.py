"""Rules on made conversations: which decisions, with which targets, and that looking changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory import CharRange, Memory
from kv_memory.errors import ConversationError
from kv_memory.policy import Category, Decision, Policy, Rule
from kv_memory.policy.rules import (
    ChangedDocument,
    FlaggedContent,
    Invalidated,
    SupersededToolResult,
    TimeToLive,
    ToolError,
)
from kv_memory.policy.rules.errors import starting_with
from tests.tiny import tiny_engine

Messages = list[dict[str, Any]]


def said(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def called(call_id: str, text: str, tool: str = "get_item", **more: Any) -> Messages:
    """A call with the arguments `args`, by default of item 1, and its result."""
    arguments = more.pop("args", {"sku": "1"})
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": arguments}}
    return [said("", "assistant", tool_calls=[call]), said(text, "tool", tool_call_id=call_id, **more)]


def decided(rule: Rule, messages: Messages) -> list[Any]:
    """Targets, after a look at what holds for all rules."""
    before = copy.deepcopy(messages)
    decisions = rule.decide(messages)
    assert messages == before
    assert decisions == rule.decide(messages)
    for decision in decisions:
        assert decision.rule == rule.name
        assert decision.reason
        assert messages[decision.message]["content"]
    return [decision.target for decision in decisions]


THREE = [*called("a", "x"), *called("b", "y", args={"sku": "2"}), *called("c", "z")]


def test_superseded_by_the_same_call() -> None:
    assert decided(SupersededToolResult(), THREE) == ["a"]
    (decision,) = SupersededToolResult().decide(THREE)
    assert decision == Decision("a", "superseded by c", Category.STALE, "superseded", 1)


def test_superseded_by_key() -> None:
    assert decided(SupersededToolResult(lambda call: call.name), THREE) == ["a", "b"]
    assert decided(SupersededToolResult(lambda call: None), THREE) == []
    assert decided(SupersededToolResult(tools=["get_price"]), THREE) == []


def test_superseded_by_named_arguments() -> None:
    messages = [*called("a", "x", args={"sku": "1", "page": 1}), *called("b", "y", args={"sku": "1", "page": 2})]
    assert decided(SupersededToolResult(), messages) == []
    assert decided(SupersededToolResult(["sku"]), messages) == ["a"]
    assert decided(SupersededToolResult(["order"]), messages) == [], "about nothing"
    assert decided(SupersededToolResult(["sku"]), [*called("a", "x"), *called("b", "y", tool="get_price")]) == []


def test_an_error_supersedes_nothing_and_an_empty_result_is_left_alone() -> None:
    for failure in ({"status": "error"}, {"error": "ValueError"}):
        assert decided(SupersededToolResult(), [*called("a", "x"), *called("b", "no", **failure)]) == []
    assert decided(SupersededToolResult(), [*called("a", ""), *called("b", "z")]) == []
    told = [*called("a", "x"), *called("b", " Error: no")]
    assert decided(SupersededToolResult(), told) == ["a"]
    assert decided(SupersededToolResult(is_error=starting_with(["Error"])), told) == []


def test_calls_with_one_id_are_told_apart() -> None:
    messages = [*called("a", "x"), *called("a", "y", args={"sku": "2"}), *called("b", "z")]
    (target,) = decided(SupersededToolResult(), messages)
    assert target == messages[1], "the id names two messages, so the message itself is given"
    assert decided(SupersededToolResult(), [*called("a", "x", id="m"), *messages[2:]]) == ["m"]


def test_an_error_goes_once_it_has_served() -> None:
    failed = [said("Look it up."), *called("a", "timeout", status="error")]
    assert decided(ToolError(), failed) == []
    assert decided(ToolError(), [*failed, *called("b", "y")]) == ["a"]
    assert decided(ToolError(), [*failed, *called("b", "y", tool="other")]) == []
    assert decided(ToolError(), [*failed, said("It failed.", "assistant"), said("Never mind.")]) == ["a"]
    assert [d.category for d in ToolError().decide([*failed, said("Never mind.")])] == [Category.ERROR]


def test_an_error_that_only_the_text_tells() -> None:
    failed = [*called("a", "Error: no such item"), said("Oh.")]
    assert decided(ToolError(), failed) == []
    assert decided(ToolError(is_error=starting_with(["Error"])), failed) == ["a"]


def test_time_to_live_in_seconds() -> None:
    messages = [*called("a", "x", at=100.0), *called("b", "y")]
    assert decided(TimeToLive(10, clock=lambda: 110.0), messages) == []
    assert decided(TimeToLive(10, clock=lambda: 110.5), messages) == ["a"]
    assert decided(TimeToLive(10, tools=["other"], clock=lambda: 111.0), messages) == []
    assert TimeToLive(10, clock=lambda: 111.0).decide(messages)[0].reason == "older than 10 seconds"


def test_time_to_live_in_turns() -> None:
    messages = [said("One"), *called("a", "x"), said("Two"), *called("b", "y"), said("Three")]
    assert decided(TimeToLive(turns=2), messages) == []
    assert decided(TimeToLive(turns=1), messages) == ["a"]
    assert decided(TimeToLive(turns=0), messages) == ["a", "b"]


def test_flagged_characters() -> None:
    def find(text: str) -> list[tuple[int, int]]:
        at = text.find("Obey.")
        return [(at, at + 5), (-3, 0), (5, 5), (90, 99)] if at >= 0 else []

    messages = [said("Obey.", id="u"), *called("a", "Price 3. Obey."), *called("b", "Fine.")]
    assert decided(FlaggedContent(find), messages) == [CharRange(message="a", start=9, end=14)]
    both = decided(FlaggedContent(find, roles=["user", "tool"]), messages)
    assert both[0] == CharRange(message="u", start=0, end=5)
    (decision,) = FlaggedContent(find).decide(messages)
    assert (decision.category, decision.chars) == (Category.SECURITY, (9, 14))
    personal = FlaggedContent(find, category=Category.PRIVACY, reason="a name").decide(messages)[0]
    assert (personal.category, personal.reason) == (Category.PRIVACY, "a name")


def test_characters_of_a_message_without_an_id() -> None:
    bare = [said("Obey."), said("Fine.", id="u")]
    assert decided(FlaggedContent(lambda text: [(0, 2)], roles=["user"]), bare) == [
        bare[0],
        CharRange(message="u", start=0, end=2),
    ]


def test_a_score_flags_all_of_a_message() -> None:
    scores = {"x": 0.5, "y": 0.49, "z": 0.9}
    assert decided(FlaggedContent(scores.__getitem__), THREE) == ["a", "c"]
    assert decided(FlaggedContent(scores.__getitem__, threshold=0.9), THREE) == ["c"]
    assert decided(FlaggedContent(lambda text: text == "y"), THREE) == ["b"]


def test_a_changed_document_goes_wherever_it_stands() -> None:
    one = {"type": "text", "text": "One is 1.", "document_id": "d1"}
    two = {"type": "text", "text": "Two is 2.", "document_id": "d2"}
    asked = {"type": "text", "text": "What is two?"}
    messages = [{"role": "user", "id": "u", "content": [one, two, asked]}, *called("a", "")]
    messages[2]["content"] = [two, one]
    deleted = decided(ChangedDocument({"d2": None, "d3": "Three"}), messages)
    assert deleted == [CharRange(message="u", start=9, end=18), CharRange(message="a", start=0, end=9)]
    assert decided(ChangedDocument({"d2": "Two is 2.", "d1": "is 1"}), messages) == []
    assert decided(ChangedDocument({"d2": "Two is 3."}), messages) == deleted
    assert decided(ChangedDocument(lambda id, text: text == "Two is 2."), messages) == deleted
    bare = [{"role": "user", "content": [one, two, asked]}]
    assert decided(ChangedDocument({"d2": None}), bare) == ["d2"]


def test_a_tool_names_what_it_invalidates() -> None:
    document = {"type": "text", "text": "Two is 2.", "document_id": "d2"}
    messages = [
        {"role": "user", "id": "u", "content": [document]},
        *called("a", "x"),
        *called("b", "", invalidates=["a", "d2", "b", "c", "nobody"]),
        *called("c", "z"),
    ]
    rule = Invalidated()
    assert decided(rule, messages) == [CharRange(message="u", start=0, end=9), "a"]
    assert {decision.by for decision in rule.decide(messages)} == {"tool"}
    assert rule.decide(messages)[0].reason == "made invalid by get_item"
    assert decided(rule, [*messages[:4], {**messages[4], "status": "error"}]) == []
    assert decided(rule, [*called("a", "x"), *called("b", '{"invalidates": ["a"]}')]) == [], "its text says nothing"


def test_tools_that_invalidate_for_good() -> None:
    messages = [
        *called("a", "open", "get_order", args={"id": 1}),
        *called("b", "open", "get_order", args={"id": 2}),
        *called("c", "done", "cancel_order", args={"id": 1}),
        *called("d", "cancelled", "get_order", args={"id": 1}),
    ]
    by = {"cancel_order": ["get_order"]}
    assert decided(Invalidated(by), messages) == ["a", "b"]
    assert decided(Invalidated(by, arguments=["id"]), messages) == ["a"]
    assert decided(Invalidated(by, arguments=["name"]), messages) == []
    assert {d.by for d in Invalidated(by).decide(messages)} == {"policy"}


RULES: list[Rule] = [
    SupersededToolResult(),
    ToolError(),
    TimeToLive(1, turns=1, clock=lambda: 100.0),
    FlaggedContent(lambda text: [(0, 1)] if "x" in text else []),
    ChangedDocument({"d": None}),
    Invalidated({"f": ["f"]}),
]
results = st.builds(
    called,
    st.sampled_from("abc"),
    st.sampled_from(["", "x", "yx", "Error"]),
    st.sampled_from("fg"),
    status=st.sampled_from(["success", "error"]),
    at=st.none() | st.floats(0, 100),
    invalidates=st.lists(st.sampled_from("abc"), max_size=1),
)
turns = st.builds(lambda text: [said(text)], st.sampled_from(["x", "y"]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(st.lists(results | turns, max_size=6))
def test_once_carried_out_nothing_is_decided_again(rule: Rule, parts: list[Messages]) -> None:
    messages = copy.deepcopy([message for part in parts for message in part])
    decided(rule, messages)
    for decision in reversed(rule.decide(messages)):
        text = messages[decision.message]["content"]
        start, end = decision.chars or (0, len(text))
        messages[decision.message]["content"] = text[:start] + text[end:]
    if rule.name != "flagged":  # its detector may find more in what is left
        assert rule.decide(messages) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_conversation_and_what_is_none(rule: Rule) -> None:
    assert rule.decide([]) == []
    with pytest.raises(ConversationError, match="has the role 'critic'"):
        rule.decide([said("x", "critic")])


def test_the_rules_of_a_policy_decide_what_a_session_retracts() -> None:
    policy = Policy.of(
        {"retract": [{"rule": "superseded", "arguments": ["sku"]}, {"rule": "time_to_live", "seconds": 5}]}
    )
    messages = [said("Look."), *called("a", "x"), *called("b", "y"), *called("c", "z", "f", at=1.0), said("And?")]
    session = Memory(tiny_engine()).session("a")
    session.prefill(messages)
    decisions = [decision for rule in policy.rules(lambda: 10.0) for decision in rule.decide(messages)]
    report = session.retract(*(decision.target for decision in decisions), messages=messages)
    assert [span.tool_call_id for span in report.spans] == ["a", "c"]
    assert {span.tokens for span in report.spans} == {0}
