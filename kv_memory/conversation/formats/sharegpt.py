"""ShareGPT, as data sets for training have it: turns with `from` and `value`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kv_memory.errors import ConversationError

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def is_turn(given: Mapping[str, Any]) -> bool:
    """Return whether this is a turn of ShareGPT."""
    return "from" in given and "value" in given


def messages_of(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a turn in OpenAI's form. Raises ConversationError where a call is no JSON."""
    speaker, value = turn["from"], turn["value"]
    if speaker == "function_call":
        return [{"role": "assistant", "content": "", "tool_calls": _calls(value)}]
    return [{"role": _ROLES.get(speaker, speaker), "content": value}]


def _calls(value: Any) -> list[Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConversationError(f"A turn of 'function_call' is not JSON: {error}.") from None
    return found if isinstance(found, list) else [found]
