"""Traits of a chat template: what it accepts, and how to express what it does not.

Some templates refuse a system message, two turns of one role in a row, or tools. What a template refuses is merged or
written as text, the same way for every conversation of that model, so that cached tokens stay valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kv_memory.conversation.messages import Message, ToolCall
from kv_memory.conversation.sentinels import Plain, Sentinels
from kv_memory.engines.base import Tokenizer
from kv_memory.errors import ConversationError

_THOUGHTS = re.compile(r"(</?think>|\[/?THINK\])")
"""Tags that models write around their thoughts."""
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
    lists_tools: bool
    """Whether the template writes the descriptions of tools."""
    calls: bool
    """Whether the template writes tool calls."""
    results: bool
    """Whether the template writes tool results."""

    @classmethod
    def probe(cls, tokenizer: Tokenizer) -> TemplateTraits:
        """Try the template on small conversations; raises ModelError where the model has none."""

        def says(*parts: str, messages: Rendered, tools: list[dict[str, Any]] | None = None) -> bool:
            try:
                text = tokenizer.render(messages, tools, False)
            except ConversationError:
                return False
            return all(part in text for part in parts)

        def say(role: str, content: str) -> dict[str, Any]:
            return {"role": role, "content": content}

        call = {"type": "function", "id": "call_kvm0", "function": {"name": "kvmname", "arguments": {"a": "kvmarg"}}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        schema = {"type": "object", "properties": {"a": {"type": "string", "description": "kvm"}}}
        tool = {"type": "function", "function": {"name": "kvmtool", "description": "kvm", "parameters": schema}}
        result = {"role": "tool", "tool_call_id": "call_kvm0", "name": "kvmname", "content": "kvmresult"}
        return cls(
            system=says("kvma", "kvmb", messages=[say("system", "kvma"), say("user", "kvmb")]),
            late_system=says("kvma", messages=[say("system", "kvm"), say("user", "kvm"), say("system", "kvma")]),
            repeats=says("kvma", "kvmb", messages=[say("user", "kvma"), say("user", "kvmb")])
            and says("kvma", messages=[say("user", "kvm"), say("assistant", "kvm"), say("assistant", "kvma")]),
            lists_tools=says("kvmtool", messages=[say("user", "kvm")], tools=[tool]),
            calls=says("kvmname", "kvmarg", messages=[say("user", "kvm"), turn, result], tools=[tool]),
            results=says("kvmresult", messages=[say("user", "kvm"), turn, result], tools=[tool]),
        )


def adapt(
    messages: Sequence[Message],
    tools: list[dict[str, Any]] | None,
    sentinels: Sentinels | Plain,
    traits: TemplateTraits,
    structured: Callable[[str], bool],
) -> tuple[Rendered, list[dict[str, Any]] | None]:
    """Return the messages and tools in a form that the template accepts, with sentinels in place of their texts.

    `structured`: whether a text holds a structure token of the model.
    """
    # the tools' sentinels come first, so that a message's sentinels have the same numbers whatever follows it
    shown_tools = [_shown_tool(tool, sentinels, structured) for tool in tools] if tools else None
    rendered = [_with_sentinels(message, i, sentinels, traits) for i, message in enumerate(messages)]
    if shown_tools and not traits.lists_tools:
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


def _with_sentinels(
    message: Message, index: int, sentinels: Sentinels | Plain, traits: TemplateTraits
) -> dict[str, Any]:
    content = _shown_content(message, index, sentinels) if message.content or not message.tool_calls else ""
    rendered: dict[str, Any] = {"role": message.role, "content": content}
    if message.reasoning:
        rendered[message.reasoning_key] = sentinels.add("reasoning", index, message.reasoning)
    if message.role == "tool" and not traits.results:
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if message.role == "tool":
        rendered["tool_call_id"] = _plain_id(message.tool_call_id)
        rendered["name"] = sentinels.add("string", index, message.name or "")
    if not message.tool_calls:
        return rendered
    calls = [_with_sentinels_in_call(call, index, number, sentinels) for number, call in enumerate(message.tool_calls)]
    if traits.calls:
        rendered["tool_calls"] = [
            {"id": _plain_id(call.id), "type": "function", "function": function}
            for call, function in zip(message.tool_calls, calls, strict=True)
        ]
        return rendered
    written = [f"<tool_call>\n{json.dumps(function)}\n</tool_call>" for function in calls]
    return {**rendered, "content": "\n".join([content, *written] if content else written)}


def _shown_content(message: Message, index: int, sentinels: Sentinels | Plain) -> str:
    """Replace the content; tags around the assistant's thoughts stay, since templates look for them."""
    if message.role != "assistant" or not _THOUGHTS.search(message.content):
        return sentinels.add("content", index, message.content)
    shown, at = "", 0
    for part in _THOUGHTS.split(message.content):
        shown += part if _THOUGHTS.fullmatch(part) else sentinels.add("content", index, part, start=at)
        at += len(part)
    return shown


def _with_sentinels_in_call(call: ToolCall, index: int, number: int, sentinels: Sentinels | Plain) -> dict[str, Any]:
    def sentinel(value: Any) -> Any:
        if isinstance(value, str):
            return sentinels.add("string", index, value, number)
        if isinstance(value, Mapping):
            return {sentinel(str(key)): sentinel(item) for key, item in value.items()}
        if isinstance(value, list):
            return [sentinel(item) for item in value]
        return sentinels.add_value(index, value, number)

    return {"name": sentinel(call.name), "arguments": sentinel(call.arguments)}


def _plain_id(given: str | None) -> str:
    """Return an id without characters of which a special token could be made: templates write ids as scaffolding."""
    return re.sub(r"[^\w.:-]", "", given or "")


def _shown_tool(tool: Any, sentinels: Sentinels | Plain, structured: Callable[[str], bool]) -> Any:
    """Replace descriptions, which may come from an unchecked server, and whatever else holds structure tokens; keep
    what a template may compare."""
    if isinstance(tool, str):
        return sentinels.add("tool", -1, tool) if structured(tool) else tool
    if isinstance(tool, list):
        return [_shown_tool(item, sentinels, structured) for item in tool]
    if not isinstance(tool, Mapping):
        return tool
    return {
        _shown_tool(key, sentinels, structured): sentinels.add("tool", -1, value)
        if key == "description" and isinstance(value, str)
        else _shown_tool(value, sentinels, structured)
        for key, value in tool.items()
    }
