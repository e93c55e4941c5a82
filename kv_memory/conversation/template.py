"""Traits of a chat template: what it accepts, and how to express what it does not.

Some templates refuse a system message, two turns of one role in a row, or tools. What a template refuses is merged or
written as text, the same way for every conversation of that model, so that cached tokens stay valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kv_memory.conversation.messages import Message, ToolCall
from kv_memory.conversation.sentinels import Sentinels
from kv_memory.engines.base import Tokenizer
from kv_memory.errors import ConversationError

Rendered = list[dict[str, Any]]


@dataclass(frozen=True)
class TemplateTraits:
    """Features of one chat template, found by probing it."""

    system: bool
    """Whether the template has a system role."""
    late_system: bool
    """Whether the template accepts a system message after the first message."""
    repeats: bool
    """Whether the template accepts several messages of one role in a row."""
    tools: bool
    """Whether the template writes tool calls and tool results."""
    trims: bool
    """Whether the template strips white space around contents."""

    @classmethod
    def probe(cls, tokenizer: Tokenizer) -> TemplateTraits:
        """Try the template on small conversations; raises ModelError where the model has none."""

        def says(*parts: str, messages: Rendered) -> bool:
            try:
                text = tokenizer.render(messages, None, False)
            except ConversationError:
                return False
            return all(part in text for part in parts)

        def say(role: str, content: str) -> dict[str, Any]:
            return {"role": role, "content": content}

        call = {"type": "function", "id": "call_kvm0", "function": {"name": "kvmname", "arguments": {"a": "kvmarg"}}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": "call_kvm0", "name": "kvmname", "content": "kvmresult"}
        return cls(
            system=says("kvma", "kvmb", messages=[say("system", "kvma"), say("user", "kvmb")]),
            late_system=says("kvma", messages=[say("system", "kvm"), say("user", "kvm"), say("system", "kvma")]),
            repeats=says("kvma", "kvmb", messages=[say("user", "kvma"), say("user", "kvmb")])
            and says("kvma", messages=[say("user", "kvm"), say("assistant", "kvm"), say("assistant", "kvma")]),
            tools=says("kvmname", "kvmarg", "kvmresult", messages=[say("user", "kvm"), turn, result]),
            trims=not says(" kvma ", messages=[say("user", " kvma ")]),
        )


def adapt(
    messages: Sequence[Message], tools: list[dict[str, Any]] | None, sentinels: Sentinels, traits: TemplateTraits
) -> tuple[Rendered, list[dict[str, Any]] | None]:
    """Return the messages and tools in a form that the template accepts, with sentinels in place of their texts."""
    # the tools' sentinels come first, so that a message's sentinels have the same numbers whatever follows it
    shown_tools = [_with_sentinels_in_descriptions(tool, sentinels) for tool in tools] if tools else None
    rendered = [_with_sentinels(message, i, sentinels, traits) for i, message in enumerate(messages)]
    if shown_tools and not traits.tools:
        listing = "Tools:\n" + "\n".join(json.dumps(tool) for tool in shown_tools)
        rendered.insert(0, {"role": "system", "content": listing})
        shown_tools = None
    merged: Rendered = []
    for i, said in enumerate(rendered):
        as_user = said["role"] == "system" and not (traits.system if i == 0 else traits.late_system)
        message = {**said, "role": "user"} if as_user else said
        if merged and not traits.repeats and message["role"] == merged[-1]["role"] != "tool":
            before = merged[-1]
            merged[-1] = {**before, **message, "content": f"{before['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged, shown_tools


def _with_sentinels(message: Message, index: int, sentinels: Sentinels, traits: TemplateTraits) -> dict[str, Any]:
    content = sentinels.add("content", index, message.content) if message.content or not message.tool_calls else ""
    rendered: dict[str, Any] = {"role": message.role, "content": content}
    if message.role == "tool" and not traits.tools:
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if message.role == "tool":
        rendered["tool_call_id"] = _plain_id(message.tool_call_id)
        rendered["name"] = sentinels.add("string", index, message.name or "")
    if not message.tool_calls:
        return rendered
    calls = [_with_sentinels_in_call(call, index, number, sentinels) for number, call in enumerate(message.tool_calls)]
    if traits.tools:
        rendered["tool_calls"] = [
            {"id": _plain_id(call.id), "type": "function", "function": function}
            for call, function in zip(message.tool_calls, calls, strict=True)
        ]
        return rendered
    written = [f"<tool_call>\n{json.dumps(function)}\n</tool_call>" for function in calls]
    return {**rendered, "content": "\n".join([content, *written] if content else written)}


def _with_sentinels_in_call(call: ToolCall, index: int, number: int, sentinels: Sentinels) -> dict[str, Any]:
    def sentinel(value: Any) -> Any:
        if isinstance(value, str):
            return sentinels.add("string", index, value, number)
        if isinstance(value, Mapping):
            return {sentinel(str(key)): sentinel(item) for key, item in value.items()}
        return [sentinel(item) for item in value] if isinstance(value, list) else value

    return {"name": sentinel(call.name), "arguments": sentinel(call.arguments)}


def _plain_id(given: str | None) -> str:
    """Return an id without characters of which a special token could be made: templates write ids as scaffolding."""
    return re.sub(r"[^\w.:-]", "", given or "")


def _with_sentinels_in_descriptions(tool: Any, sentinels: Sentinels) -> Any:
    """Replace descriptions, which may come from an unchecked server; keep what a template may compare."""
    if isinstance(tool, list):
        return [_with_sentinels_in_descriptions(item, sentinels) for item in tool]
    if not isinstance(tool, Mapping):
        return tool
    return {
        key: sentinels.add("tool", -1, value)
        if key == "description" and isinstance(value, str)
        else _with_sentinels_in_descriptions(value, sentinels)
        for key, value in tool.items()
    }
