"""Decisions: what is to be retracted of which message, before anybody has done it. Knows nothing of caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from kv_memory.policy import Category
from kv_memory.policy.rules.conversation import Conversation
from langchain_kv_memory.convert import text_of, to_openai


@dataclass(frozen=True)
class Decision:
    """A message of a conversation, or characters of its text, is to be retracted."""

    message: BaseMessage
    reason: str
    chars: tuple[int, int] | None = None
    """None: all of it."""
    category: Category = Category.OTHER
    """What kind of reason it is."""

    @property
    def interval(self) -> tuple[int, int]:
        """The characters that are to go."""
        return (0, len(text_of(self.message))) if self.chars is None else self.chars


def named(messages: Sequence[BaseMessage], target: str, reason: str) -> Iterator[Decision]:
    """What an id means in this conversation: a tool call's result, a message, or a document wherever it stands."""
    for index, chars in Conversation(to_openai(messages, ())).named(target):
        yield Decision(messages[index], reason, chars)
