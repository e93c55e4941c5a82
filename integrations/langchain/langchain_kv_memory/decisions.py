"""The decision what to retract from which message, before it is carried out. Knows nothing of caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from kv_memory import Category, rules
from langchain_kv_memory.convert import text_of, to_openai


@dataclass(frozen=True)
class Decision:
    """A message of a conversation, or a range of its characters, that is to be retracted."""

    message: BaseMessage
    reason: str
    chars: tuple[int, int] | None = None
    """Characters [start, end) of its text; None for all of it."""
    category: Category = Category.OTHER
    """Category of the reason."""

    @property
    def interval(self) -> tuple[int, int]:
        """Return the characters [start, end) that are to be retracted."""
        return (0, len(text_of(self.message))) if self.chars is None else self.chars


def named(messages: Sequence[BaseMessage], target: str, reason: str) -> Iterator[Decision]:
    """Yield what an id names in this conversation: a tool call's result, a message, or a document in any message."""
    for index, chars in rules.Conversation(to_openai(messages, ())).named(target):
        yield Decision(messages[index], reason, chars)
