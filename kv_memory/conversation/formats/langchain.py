"""Messages that LangChain wrote: by `messages_to_dict`, by `dumps`, or as the fields of a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
_KINDS = (*_ROLES, "chat", "developer", "remove")
_KEPT = ("content", "id", "name", "tool_call_id", "status")
_BESIDE = ("function_call", "refusal", "reasoning_content")


def is_message(given: Mapping[str, Any]) -> bool:
    """Return whether this is a message of LangChain."""
    return "role" not in given and _kind(given) in _KINDS


def messages_of(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return it in OpenAI's form."""
    kind, fields = _kind(given), _fields(given)
    more = fields.get("additional_kwargs") or {}
    said = {key: fields[key] for key in _KEPT if fields.get(key) is not None}
    said |= {key: more[key] for key in _BESIDE if more.get(key)}
    said["role"] = fields.get("role", kind) if kind == "chat" else _ROLES.get(kind, kind)
    calls = list(fields.get("tool_calls") or more.get("tool_calls") or [])
    # a call that is not valid is refused by its name, unless the content has its text
    text = json.dumps(fields.get("content"), ensure_ascii=False)
    raw = [] if calls and not fields.get("tool_calls") else fields.get("invalid_tool_calls") or []
    calls += [call for call in raw if not (call["args"] and json.dumps(call["args"], ensure_ascii=False)[1:-1] in text)]
    return [{**said, "tool_calls": calls} if calls else said]


def _kind(given: Mapping[str, Any]) -> str:
    """Return LangChain's name of the kind of message, such as "human"; "" for other things."""
    if "lc" in given and isinstance(given.get("id"), list):
        kind = str(given["id"][-1])
        return kind.removesuffix("Chunk").removesuffix("Message").lower() if "Message" in kind else ""
    known = "content" in given or isinstance(given.get("data"), Mapping)
    return str(given.get("type")).removesuffix("MessageChunk").lower() if known else ""


def _fields(given: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = given.get("kwargs" if "lc" in given else "data")
    return inner if isinstance(inner, Mapping) else given
