from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from kv_memory import cuts_of
from kv_memory.errors import ConversationError
from langchain_kv_memory.convert import text_of, to_openai
from langchain_kv_memory.documents import document_block, document_id, documents_of, places

CALL = {"name": "f", "args": {"q": "ä"}, "id": "c1"}


def test_roles_ids_and_calls() -> None:
    said = [
        SystemMessage("a"),
        HumanMessage("b", id="h"),
        AIMessage("c", tool_calls=[CALL]),
        ToolMessage("d", tool_call_id="c1", name="f", id="t"),
        FunctionMessage(content="e", name="g"),
        ChatMessage(content="f", role="user"),
    ]
    assert to_openai(said) == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b", "id": "h"},
        {
            "role": "assistant",
            "content": "c",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q": "ä"}'}}],
        },
        {"role": "tool", "content": "d", "tool_call_id": "c1", "name": "f", "id": "t"},
        {"role": "tool", "content": "e", "name": "g"},
        {"role": "user", "content": "f"},
    ]


def test_a_streamed_answer_is_an_answer() -> None:
    assert to_openai([AIMessageChunk(content="c")]) == [{"role": "assistant", "content": "c"}]


def test_blocks_are_their_text() -> None:
    calls: list[str | dict[Any, Any]] = [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
        {"type": "reasoning", "reasoning": "hm"},
    ]
    message = AIMessage(["a", {"type": "text", "text": "b"}, *calls], tool_calls=[CALL])
    assert to_openai([message])[0]["content"] == "ab"
    assert text_of(message) == "ab"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}]), "'image_url'"),
        (ToolMessage([{"type": "text"}], tool_call_id="c"), "'text'"),
        (RemoveMessage(id="x"), "'remove'"),
    ],
)
def test_what_has_no_text_is_refused(message: BaseMessage, says: str) -> None:
    with pytest.raises(ConversationError, match=f"Message 1 .*{says}"):
        to_openai([HumanMessage("a"), message])


def test_documents_of_an_artifact_are_parts_of_the_text() -> None:
    first, second = Document("One.", id="1"), Document("Two.")
    message = ToolMessage("a One. b Two. c", tool_call_id="c", artifact=[first, second, Document("Three.", id="3")])
    assert to_openai([message])[0]["content"] == [
        {"type": "text", "text": "a "},
        {"type": "text", "text": "One.", "document_id": "1"},
        {"type": "text", "text": " b "},
        {"type": "text", "text": "Two.", "document_id": document_id(second)},
        {"type": "text", "text": " c"},
    ]
    assert text_of(message) == "a One. b Two. c"


def test_the_same_text_twice_is_two_places() -> None:
    twice = [Document("x", id="1"), Document("x", id="2"), Document("", id="3")]
    assert [(d.id, start) for d, start, _ in places("x x x", twice)] == [("1", 0), ("2", 2)]


@pytest.mark.parametrize(
    "artifact", [None, "text", 3, {"a": 1}, [1, "x"], [{"type": "Document"}], {"type": "Document", "page_content": 3}]
)
def test_other_artifacts_hold_no_documents(artifact: Any) -> None:
    assert documents_of(artifact) == []


def test_documents_from_a_checkpoint_are_known() -> None:
    plain = {"id": 7, "page_content": "x", "metadata": {}, "type": "Document"}
    assert [d.id for d in documents_of([plain])] == ["7"]
    assert [d.id for d in documents_of((Document("x", id="8"),))] == ["8"]


def test_blocks_keep_a_documents_id() -> None:
    document = Document("x", id="1")
    block = document_block(document)
    assert to_openai([HumanMessage(["Read: ", block])])[0]["content"] == [{"type": "text", "text": "Read: "}, block]


def test_only_a_whole_placeholder_of_a_result_is_marked() -> None:
    said = [ToolMessage("[cleared]", tool_call_id="c"), ToolMessage("[cleared].", tool_call_id="c")]
    assert [m.get("placeholder") for m in to_openai([*said, HumanMessage("[cleared]")])] == [True, None, None]
    assert to_openai([ToolMessage("[gone]", tool_call_id="c")], ("[gone]",))[0]["placeholder"] is True


FUNCTION = {"name": "f", "arguments": '{"q": "ä"}'}
OPENAI_CALL = {"id": "c1", "type": "function", "function": FUNCTION}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            AIMessage("", additional_kwargs={"function_call": FUNCTION}),
            {"tool_calls": [{"id": None, "function": FUNCTION}]},
        ),
        (
            AIMessage("", additional_kwargs={"function_call": FUNCTION}, tool_calls=[CALL]),
            {"tool_calls": [OPENAI_CALL]},
        ),
        (AIMessage("", additional_kwargs={"refusal": "No."}), {"content": "No."}),
        (AIMessage([{"type": "refusal", "refusal": "No."}]), {"content": "No."}),
        (AIMessage("a", additional_kwargs={"reasoning_content": "hm"}), {"reasoning_content": "hm"}),
        (AIMessage([{"type": "reasoning", "reasoning": "hm"}]), {"reasoning_content": "hm"}),
        (AIMessage([{"type": "thinking", "thinking": "hm", "signature": "x"}]), {"reasoning_content": "hm"}),
        (
            AIMessage([{"type": "tool_use", "id": "c1", "name": "f", "input": {"q": "ä"}}]),
            {"tool_calls": [{"id": "c1", "name": "f", "args": {"q": "ä"}}]},
        ),
        (
            AIMessage([{"type": "tool_use", "id": "c1", "name": "f", "input": {"q": "ä"}}], tool_calls=[CALL]),
            {"tool_calls": [OPENAI_CALL]},
        ),
    ],
)
def test_what_an_answer_says_beside_its_content_is_read(message: AIMessage, says: dict[str, Any]) -> None:
    (said,) = to_openai([message])
    assert {key: said[key] for key in says} == says
    assert set(said) <= {"role", "content", *says}


def test_the_text_of_an_invalid_call_of_ours_is_in_the_content_and_anothers_is_refused() -> None:
    bad: dict[str, Any] = {"type": "invalid_tool_call", "id": "c1", "name": "f", "args": '{"q": ', "error": None}
    ours = AIMessage('<tool_call>{"name": "f", "arguments": {"q": ', invalid_tool_calls=[bad])
    assert "tool_calls" not in to_openai([ours])[0]
    with pytest.raises(ConversationError, match="call of 'f' are no JSON object"):
        cuts_of(to_openai([AIMessage("", invalid_tool_calls=[bad])]), [])


def test_an_answers_block_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConversationError, match="'redacted_thinking'"):
        to_openai([AIMessage([{"type": "redacted_thinking", "data": "x"}])])
