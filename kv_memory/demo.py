"""The conversation that `kv-memory demo` shows."""

from __future__ import annotations

import json
from typing import Any

TARGET = "call_2"
QUESTION = "What is the price of SKU-7741?"
TOOLS: list[dict[str, Any]] | None = None


def _call(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def _result(call_id: str, **content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": json.dumps(content)}


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a shop assistant. Answer from the tool results."},
    {"role": "user", "content": "Look up SKU-7741."},
    _call("call_1", "get_item", sku="SKU-7741"),
    _result("call_1", sku="SKU-7741", name="Oak desk", price="249.00", stock=12),
    {"role": "user", "content": "Is that still current?"},
    _call("call_2", "get_item", sku="SKU-7741"),
    _result("call_2", sku="SKU-7741", price="1.00"),
    {"role": "user", "content": "Thanks. I also need a lamp."},
]
ERASED_ANSWER = "1.00"
TRUE_ANSWER = "249.00"
