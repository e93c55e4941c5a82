"""The conversion of LangChain's messages to OpenAI's format, with ids and documents, as kv_memory reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from kv_memory import ConversationError, openai_form
from langchain_kv_memory.documents import document_id, documents_of, places

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
PLACEHOLDERS = ("[cleared]",)
"""Texts that LangChain's ClearToolUsesEdit puts in the place of a tool result."""
REASONING = "reasoning_content"
"""Key of a message's `additional_kwargs` for thoughts that came beside its content."""
THOUGHTS = "thinking"
"""Key of such thoughts in the messages of kv_memory's answers."""
PROVIDER = "kv_memory"
"""Name of this package in the `model_provider` of its answers."""


def to_openai(messages: Sequence[BaseMessage], placeholders: Sequence[str] = PLACEHOLDERS) -> list[dict[str, Any]]:
    """Convert the conversation. Raises ConversationError where a message has no text form, such as an image.

    Thoughts, calls and refusals of an answer are read wherever a provider puts them; other metadata is not: it says
    nothing about what is erased. A tool result whose whole text is one of `placeholders` stands for the result that had
    its id; where there was none, it is text like any other.
    """
    return [_convert(message, index, placeholders) for index, message in enumerate(messages)]


def text_of(message: BaseMessage) -> str:
    """Return the text of a message as kv_memory counts its characters."""
    content = _convert(message, 0, ())["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _convert(message: BaseMessage, index: int, placeholders: Sequence[str]) -> dict[str, Any]:
    named = next((role for kind, role in _ROLES if isinstance(message, kind)), None)
    role = message.role if isinstance(message, ChatMessage) else named
    if role is None:
        raise ConversationError(f"Message {index} is of type {message.type!r}, which a chat model does not read.")
    said: dict[str, Any] = {"role": role, "content": _content(message)}
    if message.id is not None:
        said["id"] = message.id
    if message.name is not None:
        said["name"] = message.name
    if isinstance(message, AIMessage):
        said |= _beside(message)
    if isinstance(message, ToolMessage):
        said["tool_call_id"] = message.tool_call_id
        if message.content in placeholders:
            said["placeholder"] = True
    said = openai_form(said, index)
    if isinstance(said["content"], list):
        said["content"] = _texts(said["content"], index)
    return said


def _beside(message: AIMessage) -> dict[str, Any]:
    """Return what an answer says beside its content, as OpenAI's fields."""
    kept = ("function_call", "refusal", REASONING)
    said = {key: message.additional_kwargs[key] for key in kept if message.additional_kwargs.get(key)}
    if REASONING in said and message.response_metadata.get("model_provider") == PROVIDER:
        said[THOUGHTS] = said.pop(REASONING)  # the field in which the answer had them
    calls = [
        _call(call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False)) for call in message.tool_calls
    ]
    # an answer of this package has the text of an invalid call in its content; another provider's is refused by name
    written = str(message.text)
    calls += [
        _call(call["id"], call["name"] or "", call["args"] or "")
        for call in message.invalid_tool_calls
        if not (call["args"] and (call["args"] in written or _quoted(call["args"]) in written))
    ]
    return {**said, "tool_calls": calls} if calls else said


def _quoted(text: str) -> str:
    """Return the text that a JSON string is; what is none as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def _call(call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _content(message: BaseMessage) -> str | list[Any]:
    if isinstance(message.content, str):
        documents = documents_of(message.artifact) if isinstance(message, ToolMessage) else []
        return _with_documents(message.content, documents)
    return list(message.content)


def _texts(blocks: Sequence[Any], index: int) -> str | list[dict[str, Any]]:
    """Return blocks of text as parts with the ids of their documents, as one text where they have none."""
    parts = []
    for block in blocks:
        if isinstance(block, str):
            parts.append({"type": "text", "text": block})
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            kept = {key: block[key] for key in ("document_id",) if block.get(key) is not None}
            parts.append({"type": "text", "text": block["text"], **kept})
        else:
            raise ConversationError(
                f"Message {index} holds a block of type {block.get('type')!r}; this model reads text only."
            )
    return parts if any("document_id" in part for part in parts) else "".join(part["text"] for part in parts)


def _with_documents(text: str, documents: Sequence[Any]) -> str | list[dict[str, Any]]:
    """Return the text in parts, those of documents with their ids."""
    found = places(text, documents)
    if not found:
        return text
    parts, at = [], 0
    for document, start, end in found:
        parts.append({"type": "text", "text": text[at:start]})
        parts.append({"type": "text", "text": text[start:end], "document_id": document_id(document)})
        at = end
    return [part for part in [*parts, {"type": "text", "text": text[at:]}] if part["text"]]
