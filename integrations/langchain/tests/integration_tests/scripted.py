"""The pocket model with a script for when to call tools: it is too small to decide that itself."""

from __future__ import annotations

import re
import uuid
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_kv_memory import ErasableChatModel


class Scripted(ErasableChatModel):
    """Calls what the user writes as `name(argument)`, says "Noted." to results, and answers questions itself."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        calls = _calls(messages[-1])
        return _said(calls) if calls else _noted(messages, super()._generate(messages, *args, **_calling_none(kwargs)))

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        calls = _calls(messages[-1])
        if calls:
            return _said(calls)
        return _noted(messages, await super()._agenerate(messages, *args, **_calling_none(kwargs)))


def _calling_none(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "tool_choice": "none"}


def _calls(message: BaseMessage) -> list[dict[str, Any]]:
    written = re.findall(r"(\w+)\(([\w-]*)\)", message.text) if message.type == "human" else []
    return [{"id": f"{name}-{uuid.uuid4().hex[:4]}", "name": name, "args": {"it": it}} for name, it in written]


def _said(calls: list[dict[str, Any]]) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=calls))])


def _noted(messages: list[BaseMessage], read: ChatResult) -> ChatResult:
    answer = read.generations[0].message
    if messages[-1].type == "tool":
        answer = answer.model_copy(update={"content": "Noted.", "tool_calls": [], "invalid_tool_calls": []})
    return ChatResult(generations=[ChatGeneration(message=answer)])
