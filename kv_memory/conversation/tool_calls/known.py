"""Markers that mean something to a model: those in what its chat template writes, and in its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kv_memory.conversation.tool_calls.formats import FORMATS, Known
from kv_memory.engines.base import Tokenizer
from kv_memory.engines.markers import CHANNEL
from kv_memory.errors import ConversationError

_ASKED = (*(form.open for form in FORMATS), "<arg_key>", CHANNEL)


def known_markers(tokenizer: Tokenizer) -> Known:
    """Return the markers of tool calls and channels that the template writes, or that are one token with structure.

    Where another model quotes such a marker, it is ordinary text.
    """
    written = "".join(_rendered(tokenizer))
    return frozenset(mark for mark in _ASKED if mark in written or _is_token(tokenizer, mark))


def _rendered(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the template writes of small conversations with a tool; one that it refuses is left out."""
    call = {"type": "function", "id": "call_kvm0", "function": {"name": "kvm", "arguments": {"a": "kvm"}}}
    parameters = {"type": "object", "properties": {"a": {"type": "string", "description": "kvm"}}, "required": ["a"]}
    tool: dict[str, Any] = {"name": "kvm", "description": "kvm", "parameters": parameters}
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "kvm"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_kvm0", "name": "kvm", "content": "kvm"},
    ]
    for messages in (asked, asked[:2], asked[:1]):
        try:
            yield tokenizer.render(messages, [{"type": "function", "function": tool}], True)
        except ConversationError:
            continue


def _is_token(tokenizer: Tokenizer, mark: str) -> bool:
    ids, _ = tokenizer.encode(mark, special=True)
    return len(ids) == 1 and ids != tokenizer.encode(mark, special=False)[0]
