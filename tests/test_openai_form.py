"""Messages in other forms than OpenAI's present one: all that they say is read, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kv_memory.conversation.messages import Message, ToolCall, parse_messages
from kv_memory.conversation.openai_form import openai_form
from kv_memory.errors import ConversationError
from kv_memory.sessions.memory import Memory
from tests.test_session import CONVERSATION
from tests.tiny import tiny_engine

CALL = ToolCall("c1", "f", {"q": 1})
GIVEN = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q": 1}'}}
OLD = {"name": "f", "arguments": '{"q": 1}'}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"q": 1}}
TEXT = {"type": "text", "text": "I look."}


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(tiny_engine(), eraser="recompute", heal="never")


def read(role: str = "assistant", **said: Any) -> Message:
    (message,) = parse_messages([{"role": role, **said}])
    return message


@pytest.mark.parametrize(
    ("said", "content", "calls"),
    [
        ({"content": None, "tool_calls": [GIVEN]}, "", (CALL,)),
        ({"content": None, "function_call": OLD}, "", (ToolCall(None, "f", {"q": 1}),)),
        ({"content": None, "function_call": OLD, "tool_calls": [GIVEN]}, "", (CALL,)),
        ({"content": "a", "function_call": None, "refusal": None, "audio": None, "parts": []}, "a", ()),
        ({"content": [TEXT, USE]}, "I look.", (CALL,)),
        ({"content": [TEXT, USE], "tool_calls": [GIVEN]}, "I look.", (CALL,)),
        ({"content": [{"type": "tool_call", "id": "c1", "name": "f", "args": {"q": 1}}]}, "", (CALL,)),
        ({"content": [{"type": "function_call", "call_id": "c1", **OLD}]}, "", (CALL,)),
        ({"content": [{"type": "tool-call", "toolCallId": "c1", "toolName": "f", "input": {"q": 1}}]}, "", (CALL,)),
        ({"content": None, "refusal": "No."}, "No.", ()),
        ({"content": "", "refusal": "No."}, "No.", ()),
        ({"content": "No.", "refusal": "No."}, "No.", ()),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No.", ()),
        ({"parts": [{"type": "step-start"}, TEXT, {"type": "text", "text": "b"}]}, "I look.b", ()),
        ({"content": "I look.", "parts": [TEXT]}, "I look.", ()),
        ({"parts": [{"text": "I "}, {"text": "look."}, {"functionCall": {"id": "c1", "name": "f", "args": {"q": 1}}}]},
         "I look.", (CALL,)),
    ],
)  # fmt: skip
def test_content_and_calls_are_read_wherever_they_stand(
    said: dict[str, Any], content: str, calls: tuple[ToolCall, ...]
) -> None:
    message = read(**said)
    assert (message.content, message.tool_calls) == (content, calls)


@pytest.mark.parametrize(
    ("said", "thoughts", "key"),
    [
        ({"content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, TEXT]}, "hm", "reasoning_content"),
        ({"content": [{"type": "reasoning", "reasoning": "hm"}, TEXT]}, "hm", "reasoning_content"),
        ({"parts": [{"type": "reasoning", "text": "hm"}, TEXT]}, "hm", "reasoning_content"),
        ({"parts": [{"text": "hm", "thought": True}, TEXT]}, "hm", "reasoning_content"),
        (
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, TEXT]},
            "hm",
            "reasoning_content",
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}, TEXT], "thinking": "hm"}, "hm", "thinking"),
        ({"content": [{"type": "thinking", "thinking": "b"}, TEXT], "reasoning": "a"}, "ab", "reasoning"),
        ({"content": [{"type": "thinking", "thinking": "", "signature": "x"}, TEXT]}, "", ""),
    ],
)
def test_thoughts_are_read_wherever_they_stand(said: dict[str, Any], thoughts: str, key: str) -> None:
    message = read(**said)
    assert (message.content, message.reasoning, message.reasoning_key) == ("I look.", thoughts, key)


@pytest.mark.parametrize("role", ["function", "tool"])
def test_a_result_of_either_role_is_a_result(role: str) -> None:
    message = read(role, name="f", content="r")
    assert (message.role, message.name, message.content) == ("tool", "f", "r")


@pytest.mark.parametrize(
    ("role", "said", "says"),
    [
        ("assistant", {"content": None, "function_call": "auto"}, "without a function name"),
        ("assistant", {"content": [{"type": "tool_use", "id": "c1"}]}, "without a function name"),
        (
            "assistant",
            {"content": None, "function_call": {"name": "g"}, "tool_calls": [GIVEN]},
            "'g' beside its tool_c",
        ),
        ("assistant", {"content": [{**USE, "id": "c2"}], "tool_calls": [GIVEN]}, "'f' beside its tool_calls"),
        ("assistant", {"content": "Yes.", "refusal": "No."}, "both content and a refusal"),
        ("assistant", {"content": [{"type": "redacted_thinking", "data": "x"}]}, "'redacted_thinking'; only text"),
        ("assistant", {"content": "a", "audio": {"transcript": "b"}}, "field 'audio'"),
        ("assistant", {"content": "a", "toolInvocations": [{"toolName": "f"}]}, "field 'toolInvocations'"),
        ("assistant", {"parts": [{"type": "tool-f", "toolCallId": "c1", "output": 1}]}, "'tool-f'"),
        ("user", {"content": "a", "images": ["aGk="]}, "field 'images'"),
        ("user", {"content": "a", "function_call": OLD}, "belongs to the assistant"),
        ("user", {"content": [USE]}, "'tool_use'"),
        ("user", {"content": [{"type": "thinking", "thinking": "hm"}]}, "'thinking'"),
        ("user", {"content": [{"type": "tool_result", "tool_use_id": "c1"}]}, "'tool_result'; .* role 'tool'"),
        ("user", {"content": "a", "parts": [TEXT]}, "both content and parts"),
        ("user", {"parts": "hello"}, "no list"),
        ("user", {"parts": [{"type": "file", "url": "x"}]}, "'file'"),
        ("user", {"parts": [{"inlineData": {"data": "x"}}]}, "'inlineData'"),
        ("user", {"parts": [{"functionResponse": {"name": "f"}}]}, "'functionResponse'; .* role 'tool'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(role: str, said: dict[str, Any], says: str) -> None:
    with pytest.raises(ConversationError, match=f"Message 1 .*{says}|Message 1: .*{says}"):
        parse_messages([{"role": "user", "content": "a"}, {"role": role, **said}])


@pytest.mark.parametrize(
    ("arguments", "read_as"),
    [
        ({"q": 1}, {"q": 1}),
        ('{"q": 1}', {"q": 1}),
        (json.dumps('{"q": 1}'), {"q": 1}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ('""', {}),
        (None, {}),
        ('{"q": "{\\"r\\": 1}"}', {"q": '{"r": 1}'}),
    ],
)
def test_arguments_are_an_object(arguments: Any, read_as: dict[str, Any]) -> None:
    for call in ({"id": "c1", "function": {"name": "f", "arguments": arguments}}, {"name": "f", "args": arguments}):
        assert read(tool_calls=[call]).tool_calls[0].arguments == read_as


@pytest.mark.parametrize(
    "arguments",
    ['{"q": 1', "q=1", '"text"', "[1]", "3", [1], 3, True, {"q": {1}}, {1: 2, "q": 3}, '{"q":' + "[" * 99_999],
)
def test_other_arguments_are_refused_by_the_names_of_message_and_tool(arguments: Any) -> None:
    with pytest.raises(ConversationError, match=r"Message 0: .* call of 'f' are no JSON object") as error:
        read(tool_calls=[{"id": "c1", "function": {"name": "f", "arguments": arguments}}])
    assert "\n" not in str(error.value)


def test_openais_form_stays_as_it_is() -> None:
    message = {"role": "assistant", "content": "a", "tool_calls": [GIVEN], "refusal": None, "more": {"x": 1}}
    assert openai_form(message) == message


def test_a_call_in_a_content_block_is_retracted_and_cut(memory: Memory) -> None:
    turn = {"role": "assistant", "content": [TEXT, {**USE, "id": "x1"}, {**USE, "id": "x2", "input": {"q": "SECRET"}}]}
    history = [*CONVERSATION, turn]
    session = memory.session("blocks")
    session.prefill(history)
    report = session.retract("x2")
    assert [span.kind for span in report.spans] == ["tool_call"]
    assert report.tokens_erased
    left = report.tombstones(history)[-1]
    assert "SECRET" not in json.dumps(left)
    assert [call.id for call in parse_messages([left])[0].tool_calls] == ["x1"]
    assert report.tombstones(history)[:-1] == CONVERSATION


@pytest.mark.parametrize(
    "said", [{"content": None, "refusal": "SECRET"}, {"parts": [{"type": "text", "text": "SECRET"}]}]
)
def test_tombstones_hold_no_text_of_other_forms(memory: Memory, said: dict[str, Any]) -> None:
    history = [*CONVERSATION, {"role": "assistant", "id": "a9", **said}]
    session = memory.session(f"forms {said}")
    session.prefill(history)
    assert "SECRET" not in json.dumps(session.retract("a9").tombstones(history)[-1])
