"""Chat messages as pieces of text: the template's scaffolding, and the contents between it.

Joined, the pieces are the chat template's text (template.jinja). Each is tokenized alone, contents without added
tokens, so that no content can carry structure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

TURN_END = "<|im_end|>"
_STRING = "\x00"


class Piece(NamedTuple):
    """A run of text that comes from one place."""

    text: str
    content: bool
    """From a message, not from the template."""
    message: int
    """Index of the message; -1 for the tools."""


def pieces(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None, generate: bool = False
) -> list[Piece]:
    """The pieces of a conversation; with `generate`, followed by the head of an assistant turn."""
    out: list[Piece] = []
    if tools:
        out.append(Piece("<|im_start|>system\n", False, -1))
        if messages and messages[0]["role"] == "system":
            out += [Piece(messages[0]["content"], True, 0), Piece("\n\n", False, 0)]
        listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        out.append(Piece(f"# Tools\n\nYou may call these functions:\n<tools>{listed}\n</tools><|im_end|>\n", False, -1))
    for index, message in enumerate(messages):
        role, content = message["role"], message["content"] or ""
        match role:
            case "system" if tools and index == 0:
                pass
            case "tool":
                first = index == 0 or messages[index - 1]["role"] != "tool"
                last = index + 1 == len(messages) or messages[index + 1]["role"] != "tool"
                out += [
                    Piece(("<|im_start|>user" if first else "") + "\n<tool_response>\n", False, index),
                    Piece(content, True, index),
                    Piece("\n</tool_response>" + ("<|im_end|>\n" if last else ""), False, index),
                ]
            case _:
                out += [Piece(f"<|im_start|>{role}\n", False, index), Piece(content, True, index)]
                for place, call in enumerate(message.get("tool_calls") or ()):
                    out += _call(call["function"], index, "\n" if place or content else "")
                out.append(Piece("<|im_end|>\n", False, index))
    if generate:
        out.append(Piece("<|im_start|>assistant\n", False, len(messages)))
    return [piece for piece in out if piece.text]


def _call(function: dict[str, Any], index: int, before: str) -> list[Piece]:
    arguments = function["arguments"]
    strings: list[str] = []
    item = json.loads(arguments) if isinstance(arguments, str) else arguments
    frame = json.dumps(_frame(item, strings), ensure_ascii=False).split(json.dumps(_STRING)[1:-1])
    out = [
        Piece(f'{before}<tool_call>\n{{"name": "', False, index),
        Piece(function["name"], True, index),
        Piece(f'", "arguments": {frame[0]}', False, index),
    ]
    for string, rest in zip(strings, frame[1:], strict=True):
        out += [Piece(json.dumps(string, ensure_ascii=False)[1:-1], True, index), Piece(rest, False, index)]
    last = out.pop().text  # one run of scaffolding with what follows: it is tokenized as one
    return [*out, Piece(last + "}\n</tool_call>", False, index)]


def _frame(item: Any, strings: list[str]) -> Any:
    """The item with each string value taken out into `strings`."""
    match item:
        case str():
            strings.append(item)
            return _STRING
        case dict():
            return {key: _frame(value, strings) for key, value in item.items()}
        case list():
            return [_frame(value, strings) for value in item]
        case _:
            return item
