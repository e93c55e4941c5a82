"""The rule for results that a tool has made invalid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation, ToolResult
from kv_memory.policy.rules.errors import IsError, failed
from kv_memory.policy.rules.superseded import argument_values


class Invalidated:
    """A rule that retracts what was read before a tool ran, once that tool has made it invalid.

    A tool's message says so by `invalidates`, a list of ids of calls, messages and documents: then the tool asks for
    the retraction. `by` says so in advance: it maps a tool's name to the tools whose earlier results it makes invalid;
    with `arguments`, only results of calls that gave these arguments the same values. A call that failed makes nothing
    invalid.
    """

    name: ClassVar[str] = "invalidated"

    def __init__(
        self,
        by: Mapping[str, Collection[str]] | None = None,
        *,
        arguments: Collection[str] | None = None,
        is_error: IsError | None = None,
    ) -> None:
        self._by = by or {}
        self._arguments = arguments
        self._is_error = is_error

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each part that has been made invalid, with the first tool that did so."""
        conversation = Conversation(messages)
        results = conversation.results()
        found: dict[tuple[int, tuple[int, int] | None], Decision] = {}
        for result in results:
            if not failed(result, self._is_error):
                for index, chars, by in self._concerned(conversation, results, result):
                    reason = f"made invalid by {result.tool or 'a tool'}"
                    decision = conversation.decision(index, reason, Category.STALE, self.name, chars, by=by)
                    found.setdefault((index, chars), decision)
        return sorted(found.values(), key=lambda decision: (decision.message, decision.chars or (0, 0)))

    def _concerned(
        self, conversation: Conversation, results: Sequence[ToolResult], result: ToolResult
    ) -> Iterator[tuple[int, tuple[int, int] | None, str]]:
        said = conversation.given[result.index].get("invalidates") or ()
        for id in [said] if isinstance(said, str) else said:
            for index, chars in conversation.named(str(id), before=result.index):
                if conversation.messages[index].content[slice(*chars) if chars else slice(None)]:
                    yield index, chars, "tool"
        for other in results:
            earlier = other.index < result.index and other.standing
            if earlier and other.tool in self._by.get(result.tool or "", ()) and self._same(other, result):
                yield other.index, None, "policy"

    def _same(self, a: ToolResult, b: ToolResult) -> bool:
        if self._arguments is None:
            return True
        if a.call is None or b.call is None:
            return False
        values = argument_values(a.call, self._arguments)
        return values is not None and values == argument_values(b.call, self._arguments)
