"""The answer of the model: its text, tool calls parsed from it, and the tokens that the turn took."""

from __future__ import annotations

import json
import re
import uuid
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class FinishReason(StrEnum):
    """Reason why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    RETRACTED = "retracted"
    """Something that it could see was retracted while it was being generated."""


_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)


class Usage(BaseModel):
    """Token counts of one turn."""

    model_config = ConfigDict(frozen=True)

    reused: int
    """Cells of the conversation that were already in the cache."""
    prefilled: int
    """Tokens that went through the model before the answer."""
    erased: int
    """Cells erased because their messages had vanished from the conversation."""
    generated: int
    left_out: int = 0
    """Tokens of the conversation that were not prefilled because they are retracted, about."""
    corrected: tuple[str, ...] = ()
    """Ids of messages of which another text is retracted: they came with a new text, and that was prefilled."""
    branch: int = 0
    """Number of the session's branch that held the conversation."""


class Reply(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True)

    message: dict[str, Any]
    """Message of the assistant in OpenAI's format: append it to the conversation as it is."""
    text: str
    """Text that the model wrote, with tool calls as it wrote them."""
    finish_reason: FinishReason
    usage: Usage


def call_id(answer_id: str, number: int) -> str:
    """Return the id of tool call `number` of an answer."""
    return f"call_{answer_id}{number or ''}"


def read_message(text: str, answer_id: str | None = None) -> dict[str, Any]:
    """Parse the text of an answer into an assistant message with content and tool calls.

    Tool calls have the Hermes form that Qwen and others use. A call that is not JSON with a name stays part of the
    content: nothing that the model wrote is lost. The ids of the calls are made from `answer_id`, by default drawn at
    random; see `call_id`.
    """
    calls: list[dict[str, Any]] = []
    answer_id = answer_id or uuid.uuid4().hex[:12]
    start = len(text)
    for match in _TOOL_CALL.finditer(text):
        call = _read_call(match[1], call_id(answer_id, len(calls)))
        if call is None:
            return {"role": "assistant", "content": text}
        calls.append(call)
        start = min(start, match.start())
    message: dict[str, Any] = {"role": "assistant", "content": text[:start].rstrip() if calls else text}
    return {**message, "tool_calls": calls} if calls else message


def call_starts(text: str) -> list[int]:
    """Return where each tool call begins in a text."""
    return [match.start() for match in _TOOL_CALL.finditer(text)]


def _read_call(text: str, name: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):  # brackets nested a thousand deep are no call either
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments") or {}
    if not isinstance(arguments, dict):
        return None
    function = {"name": call["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": name, "type": "function", "function": function}
