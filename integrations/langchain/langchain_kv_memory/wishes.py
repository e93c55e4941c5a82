"""The retractions that the policies and tools of an agent ask for before its next model call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AnyMessage, ToolMessage

from kv_memory import CharRange, Reason
from kv_memory.policy import Category
from langchain_kv_memory.decisions import Decision, named
from langchain_kv_memory.policies import Policy
from langchain_kv_memory.targets import Target


@dataclass
class Wish:
    """One retraction: what one actor asks for with reasons of one category."""

    by: str
    category: Category
    targets: list[Target] = field(default_factory=list)
    reasons: dict[str, None] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for `ErasableChatModel.retract`."""
        reason = Reason(category=self.category, text="; ".join(self.reasons))
        return {"scope": "session", "missing": "warn", "reason": reason, "by": self.by}


def wishes_of(policies: Sequence[Policy], state: Mapping[str, Any]) -> list[Wish]:
    """Return the retractions that are asked for, one for each actor and category of reason."""
    messages: list[AnyMessage] = state["messages"]
    wishes: dict[tuple[str, Category], Wish] = {}

    def wish(by: str, category: Category, target: Target, reason: str) -> None:
        asked = wishes.setdefault((by, category), Wish(by, category))
        asked.targets.append(target)
        asked.reasons[reason] = None

    for target in state.get("pending_retractions") or ():
        meant = list(named(messages, target, "named by a tool"))
        for decision in meant:
            wish("tool", decision.category, _target(decision), decision.reason)
        if not meant:
            wish("tool", Category.OTHER, target, "named by a tool")
    for policy in policies:
        for decision in policy.decide(messages):
            wish("policy", decision.category, _target(decision), decision.reason)
    return list(wishes.values())


def _target(decision: Decision) -> Target:
    message = decision.message
    if decision.chars is None:
        return message
    id = message.tool_call_id if isinstance(message, ToolMessage) else message.id
    return CharRange(message=str(id), start=decision.chars[0], end=decision.chars[1])
