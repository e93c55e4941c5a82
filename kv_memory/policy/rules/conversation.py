"""A conversation as rules see it: its tool results, each with the call that it answers, and what ids name in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kv_memory.conversation.messages import ToolCall, parse_messages
from kv_memory.conversation.spans import CharRange, Target
from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision


@dataclass(frozen=True)
class ToolResult:
    """A tool's message, with the call that it answers."""

    index: int
    text: str
    id: str | None
    """Id of the call that it answers."""
    call: ToolCall | None
    """Call that it answers: the last one before it with this id, if any."""
    tool: str | None
    failed: bool
    """Whether the message's fields report a failure; see `Rule`."""
    at: float | None
    """Time when it was read, in seconds since the epoch, if the message gives one."""

    @property
    def standing(self) -> bool:
        """Return whether any text is left to retract."""
        return bool(self.text)


class Conversation:
    """Messages in OpenAI's format; may be empty. Raises ConversationError for messages that cannot be read."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self.given = list(messages)
        self.messages = parse_messages(self.given) if self.given else []

    def results(self) -> list[ToolResult]:
        """Return all tool results, in order."""
        calls: dict[str, ToolCall] = {}
        found = []
        for i, (message, given) in enumerate(zip(self.messages, self.given, strict=True)):
            calls |= {call.id: call for call in message.tool_calls if call.id is not None}
            if message.role == "tool":
                call = calls.get(message.tool_call_id) if message.tool_call_id is not None else None
                failed = given.get("status") == "error" or bool(given.get("error"))
                at, name = given.get("at"), message.name or (call.name if call else None)
                text = "" if message.placeholder else message.content
                found.append(ToolResult(i, text, message.tool_call_id, call, name, failed, at))
        return found

    def decision(
        self,
        index: int,
        reason: str,
        category: Category,
        rule: str,
        chars: tuple[int, int] | None = None,
        *,
        by: str = "policy",
    ) -> Decision:
        """Return the decision to retract message `index`, or these characters of it.

        Characters of a message that no id names alone cannot be pointed at: then their document is named, or else all
        of the message.
        """
        return Decision(self._target(index, chars), reason, category, rule, index, chars, by)

    def named(self, id: str, before: int | None = None) -> Iterator[tuple[int, tuple[int, int] | None]]:
        """Yield what an id names among the messages before number `before`: (index, characters or None for all).

        An id names a tool call's result, a message, or a document in any message.
        """
        for i, message in enumerate(self.messages[:before]):
            if message.id == id or (message.role == "tool" and message.tool_call_id == id):
                yield i, None
            else:
                yield from ((i, (d.start, d.end)) for d in message.documents if d.id == id)

    def _target(self, index: int, chars: tuple[int, int] | None) -> Target:
        name = self._name(index)
        if chars is None:
            return self.given[index] if name is None else name
        if name is not None:
            return CharRange(message=name, start=chars[0], end=chars[1])
        document = next((d.id for d in self.messages[index].documents if (d.start, d.end) == chars), None)
        return self.given[index] if document is None else document

    def _name(self, index: int) -> str | None:
        """Return an id that names this message and nothing else, the call's before the message's own."""
        message = self.messages[index]
        for name in (message.tool_call_id if message.role == "tool" else None, message.id):
            if name is not None and list(self.named(name)) == [(index, None)]:
                return name
        return None
