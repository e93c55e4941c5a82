"""Chat messages as pieces of text: the template's scaffolding, and the contents between it.

Joined, the pieces are the chat template's text (template.jinja). Each is tokenized alone, contents without added
tokens, so that no content can carry structure. The ids are those of the library's `ChatFormat`: a tool call is one
content, as the model would have written it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
_STRING = "\x00"
_MARK = json.dumps(_STRING)[1:-1]


class Piece(NamedTuple):
    """A run of text that is either content or the template's scaffolding."""

    text: str
    content: bool
    """Whether it comes from a message, not from the template."""
    message: int
    """Index of the message; -1 for the tools."""


def pieces(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None, generate: bool = False
) -> list[Piece]:
    """Split a conversation into pieces; with `generate`, followed by the head of an assistant turn."""
    out: list[Piece] = []
    if tools:
        start = "<|im_start|>system\n"
        if messages and messages[0]["role"] == "system":
            out += [Piece(start, False, -1), Piece(messages[0]["content"], True, 0), *_head(tools, "\n\n")]
        else:
            out += _head(tools, start)
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
                    out += [
                        Piece(("\n" if place or content else "") + "<tool_call>\n", False, index),
                        Piece(_call(call["function"]), True, index),
                        Piece("\n</tool_call>", False, index),
                    ]
                out.append(Piece("<|im_end|>\n", False, index))
    if generate:
        out.append(Piece("<|im_start|>assistant\n", False, len(messages)))
    return [piece for piece in out if piece.text]


def _head(tools: Sequence[dict[str, Any]], before: str) -> list[Piece]:
    """Return the pieces of the tools; their descriptions may be anybody's text, so they are contents."""
    texts: list[str] = []
    frame = "".join("\n" + json.dumps(_framed(tool, texts), ensure_ascii=False) for tool in tools)
    rest = f"{before}# Tools\n\nYou may call these functions:\n<tools>{frame}\n</tools><|im_end|>\n".split(_MARK)
    out = [Piece(rest[0], False, -1)]
    for text, after in zip(texts, rest[1:], strict=True):
        out += [Piece(json.dumps(text, ensure_ascii=False)[1:-1], True, -1), Piece(after, False, -1)]
    return out


def _framed(item: Any, texts: list[str]) -> Any:
    """Return the tool with each description moved out into `texts`."""
    if isinstance(item, list):
        return [_framed(part, texts) for part in item]
    if not isinstance(item, dict):
        return item
    framed = {}
    for key, value in item.items():
        if key == "description" and isinstance(value, str):
            texts.append(value)
            framed[key] = _STRING
        else:
            framed[key] = _framed(value, texts)
    return framed


def _call(function: dict[str, Any]) -> str:
    """Return a call as the model would write it."""
    arguments = function["arguments"]
    item = json.loads(arguments) if isinstance(arguments, str) else arguments
    return f'{{"name": "{function["name"]}", "arguments": {json.dumps(item, ensure_ascii=False)}}}'
