"""Traits of a chat template: what it accepts, and how to express what it does not.

Some templates refuse a system message, two turns of one role in a row, or tools. What a template refuses is merged or
written as text, the same way for every conversation of that model, so that cached tokens stay valid.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kv_memory.conversation.messages import Message, ToolCall
from kv_memory.conversation.sentinels import Plain, Sentinels
from kv_memory.engines.base import Tokenizer
from kv_memory.errors import ConversationError

_THOUGHTS = re.compile(r"([<\[◁][^<>\[\]◁▷\s]{0,12}think[^<>\[\]◁▷\s]{0,6}[>\]▷])", re.IGNORECASE)
"""Tags that models write around their thoughts: <think>, [THINK], <seed:think>, <|START_THINKING|> and their ends."""
CallIds = Literal["any", "short", "named"]
"""Ids of calls: any; nine letters and digits, as Mistral's models know them; or `functions.NAME:NUMBER`, where the
template writes no name beside the id, as Kimi's."""
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ALPHABET = string.ascii_letters + string.digits
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
    ids: CallIds
    """Ids of calls that the template expects."""
    many_calls: bool
    """Whether the template writes all calls of a message. One that leaves some out is shown a message for each call;
    one that refuses them is left to refuse."""
    text_arguments: bool
    """Whether the template takes the arguments of calls only as JSON text."""

    @classmethod
    def probe(cls, tokenizer: Tokenizer, *, with_tools: bool = False) -> TemplateTraits:
        """Try the template on small conversations; raises ModelError where the model has none.

        `with_tools`: in conversations that offer tools, for which a model may have another template.
        """
        schema = {"type": "object", "properties": {"a": {"type": "string", "description": "kvm"}}}
        tool = {"type": "function", "function": {"name": "kvmtool", "description": "kvm", "parameters": schema}}

        def says(*parts: str, messages: Rendered, times: int = 1) -> bool:
            try:
                text = tokenizer.render(messages, [tool] if with_tools else None, False)
            except ConversationError:
                return False
            return all(text.count(part) >= times for part in parts)

        def say(role: str, content: str) -> dict[str, Any]:
            return {"role": role, "content": content}

        def called(name: str, arguments: Any) -> Rendered:
            call = {"type": "function", "id": name, "function": {"name": "kvmname", "arguments": arguments}}
            turn = {"role": "assistant", "content": "", "tool_calls": [call]}
            result = {"role": "tool", "tool_call_id": name, "name": "kvmname", "content": "kvmresult"}
            return [say("user", "kvm"), turn, result]

        names: dict[CallIds, str] = {"any": "call_kvm0123", "short": "kvmcall01", "named": "functions.kvmname:0"}
        arguments = ({"a": "kvmarg"}, '{"a": "kvmarg"}')
        ways = [(kind, form) for form in arguments for kind in names]
        way = next((way for way in ways if says("kvmarg", messages=called(names[way[0]], way[1]))), None)
        kind, form = way or ways[0]
        calls = called(names[kind], form)
        if way is not None and not says("kvmname", messages=calls) and says(names[kind], messages=calls):
            kind = "named"
        two = copy.deepcopy(calls)
        two[1]["tool_calls"] *= 2
        return cls(
            system=says("kvma", "kvmb", messages=[say("system", "kvma"), say("user", "kvmb")]),
            late_system=says("kvma", messages=[say("system", "kvm"), say("user", "kvm"), say("system", "kvma")]),
            repeats=says("kvma", "kvmb", messages=[say("user", "kvma"), say("user", "kvmb")])
            and says("kvma", messages=[say("user", "kvm"), say("assistant", "kvm"), say("assistant", "kvma")]),
            lists_tools=with_tools and says("kvmtool", messages=[say("user", "kvm")]),
            calls=way is not None and (kind == "named" or says("kvmname", messages=calls)),
            results=says("kvmresult", messages=calls),
            ids=kind,
            many_calls=not says(messages=two) or says("kvmarg", messages=two, times=2),
            text_arguments=isinstance(form, str),
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
    if traits.ids != "any":
        messages = with_ids(messages, traits.ids)
    rendered = [_with_sentinels(message, i, sentinels, traits) for i, message in enumerate(messages)]
    if not traits.many_calls:
        rendered = [part for message in rendered for part in _a_message_a_call(message)]
    if shown_tools and not traits.lists_tools:
        listing = "Tools:\n" + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in shown_tools)
        if rendered[0]["role"] == "system":
            rendered[0]["content"] += f"\n\n{listing}"
        else:
            rendered.insert(0, {"role": "system", "content": listing})
        shown_tools = None
    merged: Rendered = []
    for i, said in enumerate(rendered):
        as_user = said["role"] == "system" and not (traits.system if i == 0 else traits.late_system)
        message = {**said, "role": "user"} if as_user else said
        same = merged and message["role"] == merged[-1]["role"] != "tool" and "tool_calls" not in merged[-1]
        if same and not traits.repeats:
            before = merged[-1]
            merged[-1] = {**before, **message, "content": f"{before['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged, shown_tools


def with_ids(messages: Sequence[Message], kind: CallIds) -> list[Message]:
    """Return the messages with ids of calls as the model knows them; a call and its result keep the same.

    A call without an id has that of the result without an id that comes as the same one among them.
    """
    unnamed, results, number = itertools.count(), itertools.count(), itertools.count()
    known: dict[str, str] = {}

    def called(call: ToolCall) -> ToolCall:
        given = f"number {next(unnamed)}" if call.id is None else call.id
        known[given] = f"functions.{_plain_id(call.name)}:{next(number)}" if kind == "named" else _short_id(given)
        return replace(call, id=known[given])

    def answered(message: Message) -> str | None:
        given = message.tool_call_id
        if message.role != "tool":
            return given
        given = f"number {next(results)}" if given is None else given
        return known.get(given, given if kind == "named" else _short_id(given))

    return [
        replace(m, tool_calls=tuple(called(call) for call in m.tool_calls), tool_call_id=answered(m)) for m in messages
    ]


def _short_id(given: str) -> str:
    if _SHORT_ID.fullmatch(given):
        return given
    digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:9])


def _a_message_a_call(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    calls = message.get("tool_calls", ())
    if len(calls) < 2:
        yield message
        return
    yield {**message, "tool_calls": calls[:1]}
    for call in calls[1:]:
        yield {"role": "assistant", "content": "", "tool_calls": [call]}


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
        if message.name:
            rendered["name"] = sentinels.add("string", index, message.name)
    if not message.tool_calls:
        return rendered
    calls = [_with_sentinels_in_call(call, index, number, sentinels) for number, call in enumerate(message.tool_calls)]
    if traits.text_arguments:
        calls = [{**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)} for function in calls]
    if traits.calls:
        rendered["tool_calls"] = [
            {"id": _plain_id(call.id), "type": "function", "function": function}
            for call, function in zip(message.tool_calls, calls, strict=True)
        ]
        return rendered
    written = [f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>" for function in calls]
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
            # numbered in the order in which templates sort them
            keys = {key: sentinel(str(key)) for key in sorted(value, key=lambda key: (str(key).lower(), str(key)))}
            return {keys[key]: sentinel(item) for key, item in value.items()}
        if isinstance(value, list):
            return [sentinel(item) for item in value]
        return sentinels.add_value(index, value, number)

    return {"name": sentinel(call.name), "arguments": sentinel(call.arguments)}


def _plain_id(given: str | None) -> str:
    """Return an id without characters of which a special token could be made: templates write ids as scaffolding."""
    return re.sub(r"[^\w.:-]", "", given or "")


def _shown_tool(tool: Any, sentinels: Sentinels | Plain, structured: Callable[[str], bool]) -> Any:
    """Replace what holds structure tokens, since tools may come from an unchecked server; keep what a template may
    compare."""
    if isinstance(tool, str):
        return sentinels.add("tool", -1, tool) if structured(tool) else tool
    if isinstance(tool, list):
        return [_shown_tool(item, sentinels, structured) for item in tool]
    if not isinstance(tool, Mapping):
        return tool
    return {
        _shown_tool(key, sentinels, structured): _shown_tool(value, sentinels, structured)
        for key, value in tool.items()
    }
