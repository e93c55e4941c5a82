"""Conversation files of other tools: each is known by its shape, and all of it is read or refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.conversation.files import ConversationFile
from kv_memory.conversation.messages import parse_messages
from kv_memory.errors import ConversationError

Said = tuple[str, str, str | None, list[tuple[str | None, str, Any]]]
"""A message: role, content, id of the call that it answers, and its calls."""
Conversations = Callable[..., list[list[Said]]]


@pytest.fixture
def read(tmp_path: Path) -> Conversations:
    """Write this into a file, one value as JSON and several as JSONL; return the conversations that it holds."""

    def conversations(*values: Any) -> list[list[Said]]:
        path = tmp_path / "file"
        path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values))
        file = ConversationFile(path)
        return [[said(m) for m in parse_messages(file.load(i)[0])] for i in range(len(file))]

    return conversations


def said(message: Any) -> Said:
    calls = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    return message.role, message.content, message.tool_call_id, calls


def tools_of(tmp_path: Path, value: Any) -> Any:
    (tmp_path / "file").write_text(json.dumps(value))
    return ConversationFile(tmp_path / "file").load()[1]


HI: Said = ("user", "Hi", None, [])
HELLO: Said = ("assistant", "Hello", None, [])
CALLS: Said = ("assistant", "I look.", None, [("c1", "ls", {"d": "."})])
RESULT: Said = ("tool", "a.txt", "c1", [])
USE = {"type": "tool_use", "id": "c1", "name": "ls", "input": {"d": "."}}
I_LOOK = {"type": "text", "text": "I look."}
RETURNED = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a.txt"}]}
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_openai(read: Conversations) -> None:
    talk = [HI, HELLO]
    batch = {"custom_id": "r0", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": OPENAI}}
    assert read(OPENAI) == read(*OPENAI) == read({"messages": OPENAI}) == read(batch) == [talk]
    assert read(batch, batch) == read([OPENAI, OPENAI]) == read(OPENAI, OPENAI) == [talk, talk]
    assert read(OPENAI[0]) == [[HI]]


def test_anthropic(read: Conversations) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [I_LOOK, USE]},
        {"role": "user", "content": [RETURNED, {"type": "text", "text": "Hi"}]},
    ]
    request = {"model": "m", "system": [{"type": "text", "text": "Be kind."}], "messages": messages}
    assert read(request) == [[("system", "Be kind.", None, []), HI, CALLS, RESULT, HI]]
    assert read(messages) == read(*messages) == [[HI, CALLS, RESULT, HI]]
    failed = [{"role": "user", "id": "u1", "content": [{**RETURNED, "is_error": True, "content": "no"}]}]
    assert read(failed) == [[("tool", "no", "c1", [])]]


def test_claude_code(read: Conversations) -> None:
    def row(kind: str, uuid: str, content: Any, message_id: str | None = None, **more: Any) -> dict[str, Any]:
        return {"type": kind, "uuid": uuid, "sessionId": "s", "message": {"id": message_id, "content": content}, **more}

    rows = [
        {"type": "summary", "summary": "x"},
        row("user", "u1", "Hi"),
        row("assistant", "a1", [I_LOOK], "m1"),
        row("assistant", "a2", [USE], "m1"),
        row("user", "u2", [RETURNED]),
        row("assistant", "a3", [{**USE, "id": "c2"}], "m1"),
        row("user", "u3", [{**RETURNED, "tool_use_id": "c2"}]),
        row("user", "x1", "Hi", isSidechain=True, agentId="x"),
        row("assistant", "x2", "Hello", "m9", isSidechain=True, agentId="x"),
        row("user", "u1", "Hi"),
    ]
    both = ("assistant", "I look.", None, [("c1", "ls", {"d": "."}), ("c2", "ls", {"d": "."})])
    assert read(*rows) == read(rows) == [[HI, both, RESULT, ("tool", "a.txt", "c2", [])], [HI, HELLO]]


def test_the_rows_of_a_log_give_their_ids(tmp_path: Path) -> None:
    content = [{"type": "thinking", "thinking": "hm"}, I_LOOK]
    (tmp_path / "log").write_text(json.dumps({"type": "assistant", "uuid": "a1", "message": {"content": content}}))
    (message,) = parse_messages(ConversationFile(tmp_path / "log").load()[0])
    assert (message.id, message.reasoning) == ("a1", "hm")


def test_sharegpt(read: Conversations) -> None:
    turns = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "ls", "arguments": {"d": "."}}'},
        {"from": "observation", "value": "a.txt"},
        {"from": "gpt", "value": "Hello"},
    ]
    talk = [HI, ("assistant", "", None, [(None, "ls", {"d": "."})]), ("tool", "a.txt", None, []), HELLO]
    assert read({"conversations": turns, "system": "Be kind."}) == [[("system", "Be kind.", None, []), *talk]]
    assert read([{"conversations": turns}, {"conversations": OPENAI}]) == [talk, [HI, HELLO]]
    assert read(turns) == [talk]


def test_langchain(read: Conversations) -> None:
    call = {"name": "ls", "args": {"d": "."}, "id": "c1", "type": "tool_call"}
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("human", "HumanMessage", {"content": "Hi"}),
        ("ai", "AIMessageChunk", {"content": [I_LOOK, USE], "tool_calls": [call]}),
        ("tool", "ToolMessage", {"content": "a.txt", "tool_call_id": "c1", "status": "success"}),
        ("ai", "AIMessage", {"content": "", "additional_kwargs": {"refusal": "Hello"}, "invalid_tool_calls": []}),
    ]
    dicts = [{"type": kind, "data": {**more, "type": kind}} for kind, _, more in fields]
    dumps = [
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": more}
        for _, name, more in fields
    ]
    plain = [{"type": name if "Chunk" in name else kind, **more} for kind, name, more in fields]
    prompt = {"lc": 1, "type": "constructor", "id": ["x", "ChatPromptValue"], "kwargs": {"messages": dumps}}
    talk = [HI, CALLS, RESULT, HELLO]
    assert read(dicts) == read(dumps) == read(plain) == read({"messages": plain}) == read(prompt) == [talk]


@pytest.mark.parametrize("version", [4, 5])
def test_ai_sdk(read: Conversations, version: int) -> None:
    new = {"type": "tool-ls", "toolCallId": "c1", "state": "output-available", "input": {"d": "."}, "output": {"a": 1}}
    invocation = {"toolCallId": "c1", "toolName": "ls", "args": {"d": "."}, "state": "result", "result": {"a": 1}}
    tool = new if version == 5 else {"type": "tool-invocation", "toolInvocation": invocation}
    old: dict[str, Any] = {} if version == 5 else {"content": "I look.Hello", "toolInvocations": [invocation]}
    step, hello = {"type": "step-start"}, {"type": "text", "text": "Hello"}
    user = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    talk = [HI, CALLS, ("tool", '{"a":1}', "c1", []), HELLO]
    for parts in ([step, I_LOOK, tool, step, hello], [I_LOOK, tool, hello]):
        assert read([user, {"id": "2", "role": "assistant", "parts": parts, **old}]) == [talk]
    waiting = [I_LOOK, {**new, "state": "input-available"}]
    assert read([user, {"role": "assistant", "parts": waiting}]) == [[HI, CALLS]]
    failed = [I_LOOK, {**new, "type": "dynamic-tool", "toolName": "ls", "state": "output-error", "errorText": "no"}]
    assert read([user, {"role": "assistant", "parts": failed}]) == [[HI, CALLS, ("tool", "no", "c1", [])]]


def test_chatgpt(read: Conversations) -> None:
    def node(parent: str | None, children: list[str], role: str, text: str) -> dict[str, Any]:
        message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, "recipient": "all"}
        return {"parent": parent, "children": children, "message": message}

    mapping = {
        "root": {"parent": None, "children": ["0"], "message": None},
        "0": node("root", ["1"], "system", ""),
        "1": node("0", ["2", "3"], "user", "Hi"),
        "2": node("1", [], "assistant", "Hello"),
        "3": node("1", [], "assistant", "Another version."),
    }
    export = {"title": "t", "mapping": mapping, "current_node": "2"}
    assert read([export, export]) == [[HI, HELLO]] * 2
    assert read({"mapping": mapping}) == [[HI, ("assistant", "Another version.", None, [])]]


def test_letta(read: Conversations) -> None:
    def message(agent: str, role: str, text: str, **more: Any) -> dict[str, Any]:
        return {"type": "message", "role": role, "agent_id": agent, "content": [{"type": "text", "text": text}], **more}

    returns = [{"tool_call_id": f"c{i}", "func_response": f"r{i}"} for i in (1, 2)]
    first = [message("a", "user", "Hi"), message("a", "tool", "r1", tool_call_id="c1", tool_returns=returns[:1])]
    second = [message("b", "user", "Hi"), message("b", "tool", "", tool_returns=returns)]
    one = [HI, ("tool", "r1", "c1", [])]
    two = [*one, ("tool", "r2", "c2", [])]
    assert read({"messages": [*first, *second]}) == read({"agents": [{"messages": first}, {"messages": second}]})
    assert read({"messages": [*first, *second]}) == [one, two]


def test_tools_have_openais_form(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {}}
    function = {"name": "ls", "description": "Lists.", "parameters": schema}
    form = [{"type": "function", "function": function}]
    anthropic = {"name": "ls", "description": "Lists.", "input_schema": schema}
    assert tools_of(tmp_path, {"messages": OPENAI, "tools": form}) == form
    assert tools_of(tmp_path, {"messages": OPENAI, "tools": [anthropic]}) == form
    assert tools_of(tmp_path, {"messages": OPENAI, "functions": [function]}) == form
    assert tools_of(tmp_path, {"messages": OPENAI, "tools": [{"id": "t", "json_schema": function}]}) == form
    assert tools_of(tmp_path, {"conversations": OPENAI, "tools": json.dumps([function])}) == form
    assert tools_of(tmp_path, {"agents": [{"messages": OPENAI}], "tools": [{"json_schema": function}]}) == form
    assert tools_of(tmp_path, {"messages": OPENAI, "tools": None}) is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"messages_display": "user: Hi"}, "no list of messages .*'messages_display'.*--help"),
        ({"custom_id": "r", "response": {"body": {}}}, "an answer without its conversation"),
        ({"custom_id": "r", "body": {"input": "Hi"}}, "no list of messages .*'input'"),
        ({"conversations": [{"from": "wizard", "value": "Hi"}]}, "role 'wizard'"),
        ({"conversations": [{"from": "function_call", "value": "ls"}]}, "'function_call' is not JSON"),
        ({"conversations": OPENAI, "images": ["a.png"]}, "'images'"),
        ({"messages": OPENAI, "tools": "["}, "tools are not JSON"),
        ({"messages": OPENAI, "tools": {"a": 1}}, "tools are no list"),
        ([{"type": "remove", "content": ""}, *OPENAI], "role 'remove'"),
        (
            [{"type": "ai", "content": "", "invalid_tool_calls": [{"id": "c", "name": "ls", "args": "{"}]}],
            "call of 'ls' are no JSON object",
        ),
        ({"mapping": {"1": {"message": {"author": {"role": "user"}, "content": {"content_type": "code"}}}}}, "'code'"),
        ({"mapping": {"1": {"parent": "2"}}}, "no node '2'"),
        ([{"role": "user", "content": [RETURNED | {"content": [{"type": "image"}]}]}], "'image'"),
        ([{"role": "user", "parts": [{"type": "file"}]}], "'file'"),
        ({"agents": [3]}, "no list of messages"),
        ({"mapping": {"1": 3}}, "not as its format has it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(read: Conversations, value: Any, says: str) -> None:
    with pytest.raises(ConversationError, match=says) as error:
        read(value)
    assert "\n" not in str(error.value)


def test_a_conversation_that_cannot_be_read_does_not_keep_the_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(json.dumps([{"messages": OPENAI}, {"a": 1}, {"messages": OPENAI}]))
    file = ConversationFile(tmp_path / "file")
    assert file.load(0) == file.load(2) == (OPENAI, None)
    with pytest.raises(ConversationError, match="item 1 has no list"):
        file.load(1)


def test_a_text_with_line_separators_is_one_line(read: Conversations) -> None:
    assert read({"messages": OPENAI}, {"messages": [{"role": "user", "content": "a\u2028b"}]})[1][0][1] == "a\u2028b"


KEYS = re.findall(
    r"\w+",
    "role content type text id name parts messages conversations mapping agents data kwargs lc tool_calls from value "
    "message uuid isSidechain agent_id tools functions tool_returns custom_id body function_call refusal toolCallId "
    "toolInvocation parent children author content_type recipient current_node additional_kwargs invalid_tool_calls",
)
VALUES = ("user", "assistant", "text", "tool_use", "tool_result", "human", "ai", "tool-x", "tool-invocation", "[]", "1")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=500)
@given(values=st.lists(JSON, min_size=1, max_size=3))
def test_no_file_of_json_is_a_crash(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    try:
        file = ConversationFile(path)
        for index in range(len(file)):
            parse_messages(file.load(index)[0])
    except ConversationError as error:
        assert "\n" not in str(error)
