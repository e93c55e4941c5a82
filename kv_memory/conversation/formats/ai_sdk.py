"""Messages of the AI SDK's chats: `parts`, where a tool's part holds the call and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def holds_tools(message: Mapping[str, Any]) -> bool:
    """Return whether a message has parts of tools."""
    parts = message.get("parts")
    return isinstance(parts, list) and any(_tool(part) is not None for part in parts)


def messages_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return such a message as an answer and its results for each step; the first has the id."""
    found: list[dict[str, Any]] = []
    blocks: list[Any] = []
    results: list[dict[str, Any]] = []

    def end_step() -> None:
        if blocks or results:
            found.append({"role": message.get("role"), "content": blocks.copy()})
            found.extend(results)
        blocks.clear()
        results.clear()

    for part in message["parts"]:
        tool = _tool(part)
        begins = isinstance(part, Mapping) and part.get("type") == "step-start"
        if begins or (tool is None and results):
            end_step()
        if tool is not None:
            blocks.append({"type": "tool_call", "id": tool["id"], "name": tool["name"], "args": tool["input"]})
            results += _result(tool)
        elif not begins:
            blocks.append(part)
    end_step()
    first = {key: value for key, value in message.items() if key not in ("parts", "content", "toolInvocations")}
    return [{**first, **found[0]}, *found[1:]]


def _tool(part: Any) -> dict[str, Any] | None:
    """Return a tool's part with the same fields in all versions of the SDK; None for another part."""
    kind = str(part.get("type")) if isinstance(part, Mapping) else ""
    if kind == "tool-invocation" and isinstance(part.get("toolInvocation"), Mapping):
        part = part["toolInvocation"]
        state = "output-available" if part.get("state") == "result" else ""
        names = {"name": part.get("toolName"), "input": part.get("args"), "output": part.get("result")}
        return {"id": part.get("toolCallId"), "state": state, **names}
    if kind != "dynamic-tool" and not (kind.startswith("tool-") and "toolCallId" in part):
        return None
    name = part.get("toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
    fields = {key: part.get(key) for key in ("state", "input", "output", "errorText")}
    return {"id": part.get("toolCallId"), "name": name, **fields}


def _result(tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = {"role": "tool", "tool_call_id": tool["id"], "name": tool["name"]}
    if tool["state"] == "output-error":
        return [{**said, "content": str(tool["errorText"]), "status": "error"}]
    if tool["state"] != "output-available":
        return []
    output = tool["output"]
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, separators=(",", ":"))
    return [{**said, "content": text}]
