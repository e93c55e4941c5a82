"""The protocol of a rule, and the decision that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from kv_memory.conversation.spans import Target
from kv_memory.policy.reasons import Category


@dataclass(frozen=True)
class Decision:
    """A message of a conversation, or a range of its characters, that is to be retracted."""

    target: Target
    """Target for `Session.retract`: an id or characters, or the message itself where no id names it alone."""
    reason: str
    category: Category
    rule: str
    """Name of the rule that decided."""
    message: int
    """Index of the message in the conversation."""
    chars: tuple[int, int] | None = None
    """Characters [start, end) of the message's text; None for all of it."""
    by: str = "policy"
    """Actor that asks for the retraction, as `Authority` names actors."""


class Rule(Protocol):
    """Anything that decides what is to be retracted from a conversation in OpenAI's format.

    Besides OpenAI's own fields, the rules of this package use these of a tool's message: `status` ("error" for a
    failure) or `error` (what went wrong, if anything did), `at` (when it was read, in seconds since the epoch), and
    `invalidates` (a list of ids). The caller writes them: the text of a message is never taken for any of them.
    """

    name: ClassVar[str]

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return what is to be retracted from these messages, in their order. Changes nothing; may block."""
        ...
