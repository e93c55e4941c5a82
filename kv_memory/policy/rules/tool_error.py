"""The rule for tool errors that are no longer needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation
from kv_memory.policy.rules.errors import IsError, failed


class ToolError:
    """A rule that retracts an error once the same tool has succeeded or the user has taken the next turn.

    `is_error`: tells whether a text reports a failure, besides the message's own fields.
    """

    name: ClassVar[str] = "tool_error"

    def __init__(self, *, is_error: IsError | None = None) -> None:
        self._is_error = is_error

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each error that is no longer needed."""
        conversation = Conversation(messages)
        turn = max((i for i, m in enumerate(conversation.messages) if m.role == "user"), default=0)
        results = [result for result in conversation.results() if result.standing]
        good = {r.tool: r.index for r in results if r.tool is not None and not failed(r, self._is_error)}
        return [
            conversation.decision(result.index, "tool error", Category.ERROR, self.name)
            for result in results
            if failed(result, self._is_error) and result.index < max(turn, good.get(result.tool or "", 0))
        ]
