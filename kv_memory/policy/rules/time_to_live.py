"""The rule for tool results that are too old."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation, ToolResult


class TimeToLive:
    """A rule that retracts tool results older than `seconds`, or followed by more than `turns` turns of the user.

    Either may be None; a message without `at` has no age in seconds. With `tools`, only the results of these tools.
    `clock` gives seconds since the epoch.
    """

    name: ClassVar[str] = "time_to_live"

    def __init__(
        self,
        seconds: float | None = None,
        *,
        turns: int | None = None,
        tools: Collection[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._seconds = seconds
        self._turns = turns
        self._tools = tools
        self._clock = clock

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each result that is too old."""
        conversation = Conversation(messages)
        now = self._clock()
        turns = [i for i, message in enumerate(conversation.messages) if message.role == "user"]
        decisions = []
        for result in conversation.results():
            if result.standing and (self._tools is None or result.tool in self._tools):
                reason = self._too_old(result, now, sum(i > result.index for i in turns))
                if reason:
                    decisions.append(conversation.decision(result.index, reason, Category.STALE, self.name))
        return decisions

    def _too_old(self, result: ToolResult, now: float, turns: int) -> str:
        if self._seconds is not None and result.at is not None and now - result.at > self._seconds:
            return f"older than {self._seconds:g} seconds"
        if self._turns is not None and turns > self._turns:
            return f"older than {self._turns} turns"
        return ""
