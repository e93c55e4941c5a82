"""Messages of Letta's agent files, where one message may hold the results of several calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def holds_results(message: Mapping[str, Any]) -> bool:
    """Return whether a message holds several results; a single one is its content too."""
    returns = message.get("tool_returns")
    return isinstance(returns, list) and len(returns) > 1


def messages_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return such a message as one for each result."""
    role, found = {"role": "tool", "name": message.get("name")}, message["tool_returns"]
    return [{**role, "tool_call_id": one["tool_call_id"], "content": one["func_response"]} for one in found]
