"""The rule for text that a detector flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation

Detector = Callable[[str], Iterable[tuple[int, int]] | float]
"""A function from a text to the character intervals [start, end) that are flagged, or to a score for the whole text."""


class FlaggedContent:
    """A rule that retracts what a detector flags: an injected sentence, a secret, personal data.

    `detector`: it is called with every message of these `roles` each time, so that it can find later what it did not
    know before; a slow one should cache its results. A message whose score is at least `threshold` is retracted as a
    whole.
    """

    name: ClassVar[str] = "flagged"

    def __init__(
        self,
        detector: Detector,
        *,
        roles: Collection[str] = ("tool",),
        threshold: float = 0.5,
        category: Category = Category.SECURITY,
        reason: str = "flagged by a detector",
    ) -> None:
        self._detector = detector
        self._roles = roles
        self._threshold = threshold
        self._category = category
        self._reason = reason

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each flagged interval; characters outside the text are ignored."""
        conversation = Conversation(messages)
        return [
            conversation.decision(i, self._reason, self._category, self.name, chars)
            for i, message in enumerate(conversation.messages)
            if message.role in self._roles and message.content
            for chars in self._flagged(message.content)
        ]

    def _flagged(self, text: str) -> list[tuple[int, int] | None]:
        found = self._detector(text)
        if isinstance(found, Iterable):
            inside = [(max(0, start), min(end, len(text))) for start, end in found]
            return [(start, end) for start, end in inside if start < end]
        return [None] if found >= self._threshold else []
