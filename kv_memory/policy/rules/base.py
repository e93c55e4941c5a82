"""What a rule is, and what it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from kv_memory.conversation.spans import Target
from kv_memory.policy.reasons import Category


@dataclass(frozen=True)
class Decision:
    """A message of a conversation, or characters of its text, is to be retracted."""

    target: Target
    """For `Session.retract`: an id or characters, or the message itself where no id names it alone."""
    reason: str
    category: Category
    rule: str
    """The name of the rule that decided it."""
    message: int
    """Its index in the conversation."""
    chars: tuple[int, int] | None = None
    """Characters [start, end) of its text content; None: all of it."""
    by: str = "policy"
    """Who asks for it, as `Authority` names them."""


class Rule(Protocol):
    """Anything that decides what is to be retracted of a conversation in OpenAI's format.

    Besides OpenAI's own fields, the rules of this package read of a tool's message: `status` ("error" for a failure)
    or `error` (what went wrong, if anything did), `at` (when it was read, in seconds since the epoch), and
    `invalidates` (a list of ids). They are the caller's to write: no text of a message is taken for any of them.
    """

    name: ClassVar[str]

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """What is to be retracted of these messages, in their order. Changes nothing; may block."""
        ...
