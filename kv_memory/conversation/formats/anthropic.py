"""Requests to Anthropic's API and session logs of Claude Code: content blocks, results within a user's message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

Messages = list[dict[str, Any]]


def holds_results(message: Mapping[str, Any]) -> bool:
    """Return whether a message holds results of tools in its content."""
    content = message.get("content")
    return isinstance(content, list) and any(map(_is_result, content))


def messages_of(message: Mapping[str, Any]) -> Messages:
    """Return such a message as one for each result and for what is between them; the id goes to what is said."""
    parts: Messages = []
    rest = {key: value for key, value in message.items() if key not in ("id", "content")}
    for results, group in groupby(message["content"], _is_result):
        blocks = list(group)
        parts += map(_result, blocks) if results else [{**rest, "content": blocks}]
    said = [part for part in parts if part["role"] != "tool"] or parts
    if "id" in message and len(said) == 1:
        said[0]["id"] = message["id"]
    return parts


def _is_result(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "tool_result"


def _result(block: Mapping[str, Any]) -> dict[str, Any]:
    said = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": block.get("content")}
    return {**said, "status": "error"} if block.get("is_error") else said


def tool_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a tool in OpenAI's form."""
    known = {key: tool[key] for key in ("name", "description") if key in tool}
    return {"type": "function", "function": {**known, "parameters": tool["input_schema"]}}


def is_log_row(item: Any) -> bool:
    """Return whether this is a row of a Claude Code log with a message."""
    if not isinstance(item, Mapping) or item.get("type") not in ("user", "assistant"):
        return False
    return isinstance(item.get("message"), Mapping) and any(key in item for key in ("uuid", "sessionId", "session_id"))


def sessions_in(rows: Sequence[Any]) -> Iterator[tuple[list[Mapping[str, Any]], str]]:
    """Yield the rows of each conversation in a log, those of sub-agents apart, and what of the log is left out."""
    found: dict[Any, dict[Any, Mapping[str, Any]]] = {}
    others = [row for row in rows if not is_log_row(row)]
    for row in filter(is_log_row, rows):
        agent = row.get("agentId", "sidechain") if row.get("isSidechain") else None
        own = found.setdefault((row.get("sessionId", row.get("session_id")), agent), {})
        own.setdefault(row.get("uuid", len(own)), row)  # a session that was resumed has its rows twice
    kinds = sorted({str(row.get("type")) if isinstance(row, Mapping) else type(row).__name__ for row in others})
    note = f"{len(others)} of {len(rows)} rows hold no message and are left out ({', '.join(kinds)})." if others else ""
    for own in found.values():
        yield list(own.values()), note


def conversation_of(rows: Sequence[Mapping[str, Any]]) -> Messages:
    """Return the rows of one conversation as messages; an answer that came in several rows is one."""
    found: Messages = []
    answers: dict[str, dict[str, Any]] = {}
    for row in rows:
        said = row["message"]
        answer = answers.get(str(said.get("id"))) if row["type"] == "assistant" else None
        if answer is not None:
            answer["content"] = [*_blocks(answer["content"]), *_blocks(said.get("content"))]
            continue
        message = {"role": said.get("role", row["type"]), "content": said.get("content")}
        found.append({**message, "id": row["uuid"]} if "uuid" in row else message)
        if row["type"] == "assistant" and said.get("id"):
            answers[str(said["id"])] = found[-1]
    return found


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [] if content is None else [{"type": "text", "text": content}]
