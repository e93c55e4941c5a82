"""The retractions that the policies and tools of an agent ask for before its next model call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, ToolMessage

from kv_memory import Category, CharRange, Requests
from langchain_kv_memory.decisions import Decision, named
from langchain_kv_memory.policies import Policy
from langchain_kv_memory.targets import Target


def requests_of(policies: Sequence[Policy], state: Mapping[str, Any]) -> Requests[Target]:
    """Return the retractions that are asked for, one for each actor and category of reason."""
    messages: list[AnyMessage] = state["messages"]
    requests: Requests[Target] = Requests()
    for target in state.get("pending_retractions") or ():
        meant = list(named(messages, target, "named by a tool"))
        for decision in meant:
            requests.add("tool", decision.category, _target(decision), decision.reason)
        if not meant:
            requests.add("tool", Category.OTHER, target, "named by a tool")
    for policy in policies:
        for decision in policy.decide(messages):
            requests.add("policy", decision.category, _target(decision), decision.reason)
    return requests


def _target(decision: Decision) -> Target:
    message = decision.message
    if decision.chars is None:
        return message
    id = message.tool_call_id if isinstance(message, ToolMessage) else message.id
    return CharRange(message=str(id), start=decision.chars[0], end=decision.chars[1])
