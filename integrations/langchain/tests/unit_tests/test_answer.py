"""A reply as a message and as the sum of its chunks: the same content, calls, invalid calls and thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from kv_memory import FinishReason, InvalidCall, Reply, ReplyPart, ReplyStream, Usage
from langchain_kv_memory.answer import chunks_of, message_of
from langchain_kv_memory.convert import to_openai

METADATA: dict[str, Any] = {"model_provider": "kv_memory", "kv_memory": {}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "x"]}'}}
CUT = [
    '<tool_call>{"name": "f", "arguments": {"a": "W-',
    '{"name": "f", "arguments": {"a": 1}',
    "{" * 2000,
    "[" * 2000,
    "words",
]


class Stream:
    def __init__(self, parts: list[ReplyPart], reply: Reply) -> None:
        self._parts = parts
        self.reply = reply

    def parts(self) -> Iterator[ReplyPart]:
        return iter(self._parts)


def both(parts: list[ReplyPart], finish: FinishReason = FinishReason.STOP) -> tuple[AIMessage, AIMessageChunk]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(p.text for p in parts if p.kind == "content")}
    if thoughts := "".join(part.text for part in parts if part.kind == "reasoning"):
        message["thinking"] = thoughts
    if calls := [part.call for part in parts if part.call]:
        message["tool_calls"] = calls
    reply = Reply(
        message=message,
        invalid_calls=tuple(part.invalid for part in parts if part.invalid),
        text="",
        finish_reason=finish,
        usage=Usage(reused=0, prefilled=0, erased=0, generated=0),
    )
    chunks = [cast(AIMessageChunk, c.message) for c in chunks_of(cast(ReplyStream, Stream(parts, reply)), METADATA)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return message_of(reply, METADATA), whole


@pytest.mark.parametrize("text", CUT)
def test_what_was_cut_off_is_never_a_valid_call(text: str) -> None:
    invalid = InvalidCall(name="f", text=text, error="It was cut off.")
    parts = [ReplyPart("call", call=CALL), ReplyPart("content", text), ReplyPart("invalid", invalid=invalid)]
    for message in both(parts, FinishReason.LENGTH):
        assert [(call["id"], call["args"]) for call in message.tool_calls] == [("call_1", {"a": [1, "x"]})]
        assert [(call["name"], json.loads(call["args"] or "")) for call in message.invalid_tool_calls] == [("f", text)]
        assert message.content == text
        assert message.response_metadata["finish_reason"] == "length"
        (said,) = to_openai([message])
        assert (said["content"], len(said["tool_calls"])) == (text, 1)


def test_a_call_ends_an_answer_as_a_call() -> None:
    for message in both([ReplyPart("call", call=CALL)]):
        assert message.response_metadata["finish_reason"] == "tool_calls"


def test_thoughts_come_beside_the_content_and_go_back() -> None:
    parts = [ReplyPart("reasoning", "Hm"), ReplyPart("reasoning", "."), ReplyPart("content", "Yes.")]
    for message in both(parts):
        assert (message.content, message.additional_kwargs) == ("Yes.", {"reasoning_content": "Hm."})
        (said,) = to_openai([message])
        assert (said["content"], said["thinking"]) == ("Yes.", "Hm.")
