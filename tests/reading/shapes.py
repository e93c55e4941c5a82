"""Conversations of the shapes that agents make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Shape:
    """A conversation and the tools that it is given."""

    messages: Messages
    tools: list[dict[str, Any]] | None = None


def _said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(number: int, **arguments: Any) -> dict[str, Any]:
    function = {"name": "look_up", "arguments": arguments or {"q": f"rain & <sun> {number}"}}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _called(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return _said("assistant", "", tool_calls=list(calls), **more)


def _result(number: int, content: str) -> dict[str, Any]:
    return _said("tool", content, tool_call_id=f"call0000{number}", name="look_up")


_USER, _ANSWER, _NEXT = _said("user", "hello one"), _said("assistant", "answer two"), _said("user", "and three")
_SYSTEM = _said("system", "be brief")
_PROPERTIES = {"q": {"type": "string", "description": "Words to look for"}, "pin": {"type": "integer"}}
_PARAMETERS = {"type": "object", "properties": _PROPERTIES, "required": ["q"]}
_TOOL = {"name": "look_up", "description": "Looks up a thing.", "parameters": _PARAMETERS}
TOOLS = [{"type": "function", "function": _TOOL}]
_ODD = {"pin": 736251, "ok": True, "none": None, "list": [1, "a"], "deep": {"x": 2.5}}

SHAPES = {
    "plain": Shape([_USER, _ANSWER, _NEXT]),
    "system first": Shape([_SYSTEM, _USER, _ANSWER, _NEXT]),
    "late system": Shape([_USER, _ANSWER, _said("system", "now be long"), _NEXT]),
    "greeting": Shape([_said("assistant", "welcome zero"), _USER, _ANSWER, _NEXT]),
    "one call": Shape([_USER, _called(_call(1)), _result(1, "result four"), _ANSWER, _NEXT], TOOLS),
    "system and call": Shape([_SYSTEM, _USER, _called(_call(1)), _result(1, "result four"), _ANSWER, _NEXT], TOOLS),
    "two calls": Shape(
        [_USER, _called(_call(1), _call(2)), _result(1, "result four"), _result(2, "result five"), _ANSWER, _NEXT],
        TOOLS,
    ),
    "old thoughts": Shape([_USER, _said("assistant", "<think>\nsome thought\n</think>\n\nanswer two"), _NEXT]),
    "thoughts beside": Shape(
        [_USER, _called(_call(1), reasoning_content="some thought"), _result(1, "result four")], TOOLS
    ),
    "tools unused": Shape([_USER, _ANSWER, _NEXT], TOOLS),
    "arguments": Shape(
        [_USER, _called(_call(1, **_ODD)), _result(1, '{"a": "b\\n", "c": [1, 2]}'), _ANSWER, _NEXT], TOOLS
    ),
    "calls again": Shape(
        [_USER, _called(_call(1)), _result(1, "result four"), _called(_call(2)), _result(2, "result five"), _ANSWER],
        TOOLS,
    ),
}
