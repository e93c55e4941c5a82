from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from kv_memory.policy import Category
from kv_memory.policy import Policy as CorePolicy
from langchain_kv_memory import document_blocks
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.decisions import named
from langchain_kv_memory.policies import (
    PROVENANCE,
    ByRule,
    ChangedDocument,
    FlaggedContent,
    Policy,
    SupersededToolResult,
    TimeToLive,
    ToolError,
)


def looked_up(call_id: str, sku: str, result: str, status: str = "success", **more: Any) -> list[AnyMessage]:
    call = {"id": call_id, "name": "get_item", "args": {"sku": sku}}
    tool = ToolMessage(result, tool_call_id=call_id, name="get_item", status=status, **more)
    return [AIMessage("", tool_calls=[call]), tool]


def decided(policy: Policy, messages: list[AnyMessage]) -> list[tuple[str | None, tuple[int, int] | None]]:
    return [
        (d.message.tool_call_id if isinstance(d.message, ToolMessage) else d.message.id, d.chars)
        for d in policy.decide(messages)
    ]


def test_superseded_by_the_same_call() -> None:
    messages = [*looked_up("a", "1", "x"), *looked_up("b", "2", "y"), *looked_up("c", "1", "z")]
    assert decided(SupersededToolResult(), messages) == [("a", None)]
    assert [d.reason for d in SupersededToolResult().decide(messages)] == ["superseded by c"]


def test_superseded_by_key() -> None:
    messages = [*looked_up("a", "1", "x"), *looked_up("b", "2", "y"), *looked_up("c", "1", "z")]
    assert decided(SupersededToolResult(lambda call: call["name"]), messages) == [("a", None), ("b", None)]
    assert decided(SupersededToolResult(lambda call: None), messages) == []


def test_an_error_supersedes_nothing_and_an_empty_result_is_left_alone() -> None:
    assert decided(SupersededToolResult(), [*looked_up("a", "1", "x"), *looked_up("b", "1", "no", "error")]) == []
    assert decided(SupersededToolResult(), [*looked_up("a", "1", ""), *looked_up("b", "1", "z")]) == []


def test_an_error_goes_once_the_tool_has_succeeded() -> None:
    failed = looked_up("a", "1", "timeout", "error")
    assert decided(ToolError(), failed) == []
    assert decided(ToolError(), [*failed, *looked_up("b", "2", "y")]) == [("a", None)]


def test_an_error_goes_when_the_user_takes_the_next_turn() -> None:
    failed = [HumanMessage("Look it up."), *looked_up("a", "1", "timeout", "error"), AIMessage("It failed.")]
    assert decided(ToolError(), failed) == []
    assert decided(ToolError(), [*failed, HumanMessage("Never mind.")]) == [("a", None)]


def test_time_to_live() -> None:
    old: dict[str, Any] = {"response_metadata": {PROVENANCE: {"tool": "get_item", "at": 100.0}}}
    messages = [*looked_up("a", "1", "x", **old), *looked_up("b", "2", "y")]
    assert decided(TimeToLive(10, clock=lambda: 109.0), messages) == []
    assert decided(TimeToLive(10, clock=lambda: 111.0), messages) == [("a", None)]
    assert decided(TimeToLive(10, clock=lambda: 111.0, tools=["other"]), messages) == []


def test_flagged_content() -> None:
    def find(text: str) -> list[tuple[int, int]]:
        at = text.find("Obey.")
        return [(at, at + 5)] if at >= 0 else []

    messages = [HumanMessage("Obey.", id="u"), *looked_up("a", "1", "Price 3. Obey."), *looked_up("b", "2", "Fine.")]
    assert decided(FlaggedContent(find), messages) == [("a", (9, 14))]
    assert decided(FlaggedContent(find, types=["human", "tool"]), messages) == [("u", (0, 5)), ("a", (9, 14))]


@pytest.mark.parametrize("stored", [False, True], ids=["documents", "after a checkpoint"])
def test_changed_document(stored: bool) -> None:
    documents = [Document("One is 1.", id="d1"), Document("Two is 2.", id="d2")]
    artifact = [d.model_dump() for d in documents] if stored else documents
    messages = [
        HumanMessage([*document_blocks(documents), {"type": "text", "text": "What is two?"}], id="u"),
        *looked_up("a", "1", "One is 1.\n\nTwo is 2.", artifact=artifact),
    ]
    changes = DocumentChanges()
    assert decided(ChangedDocument(changes), messages) == []
    changes.deleted(["d2"])
    assert decided(ChangedDocument(changes), messages) == [("u", (11, 20)), ("a", (11, 20))]


def test_only_the_old_text_of_a_rewritten_document_is_stale() -> None:
    changes = DocumentChanges()
    changes.written([Document("Two is 3.", id="d2")], [Document("Two is 2.", id="d2")])
    blocks = document_blocks([Document("Two is 2.", id="d2"), Document("Two is 3.", id="d2")])
    assert decided(ChangedDocument(changes), [HumanMessage(blocks, id="u")]) == [("u", (0, 9))]


def test_the_rules_of_a_policy_file() -> None:
    (rule,) = CorePolicy.of({"retract": [{"rule": "time_to_live", "seconds": 10, "turns": 1}]}).rules(lambda: 111.0)
    old: dict[str, Any] = {"response_metadata": {PROVENANCE: {"tool": "get_item", "at": 100.0}}}
    messages = [*looked_up("a", "1", "x", **old), *looked_up("b", "2", "y"), HumanMessage("And?")]
    assert decided(ByRule(rule), messages) == [("a", None)]
    assert [d.category for d in ByRule(rule).decide(messages)] == [Category.STALE]


def test_what_a_detector_scores() -> None:
    messages = [HumanMessage("Obey.", id="u"), *looked_up("a", "1", "Obey."), *looked_up("b", "2", "Fine.")]
    assert decided(FlaggedContent(lambda text: 0.9 if "Obey" in text else 0.1), messages) == [("a", None)]


def test_ids_named_by_a_tool() -> None:
    messages = [
        HumanMessage(document_blocks([Document("One is 1.", id="d1")]), id="u"),
        *looked_up("a", "1", "x", id="m"),
    ]
    assert [d.interval for d in named(messages, "d1", "")] == [(0, 9)]
    assert [d.message.id for d in named(messages, "u", "")] == ["u"]
    assert [d.message for d in named(messages, "a", "")] == [d.message for d in named(messages, "m", "")]
    assert list(named(messages, "nobody", "")) == []
