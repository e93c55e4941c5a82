"""The rule for documents that have changed since they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation

Stale = Callable[[str, str], bool]


class ChangedDocument:
    """A rule that retracts a document from all messages once it was deleted or replaced.

    `current`: the current text of each document by its id, None for a deleted one; a document whose id is missing is
    left alone. Or a function that gets a document's id and the text that was read, and returns whether that text is
    stale.
    """

    name: ClassVar[str] = "changed_document"

    def __init__(self, current: Mapping[str, str | None] | Stale) -> None:
        self._stale = compared_with(current) if isinstance(current, Mapping) else current

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each document that has changed."""
        conversation = Conversation(messages)
        return [
            conversation.decision(i, "document changed", Category.STALE, self.name, (document.start, document.end))
            for i, message in enumerate(conversation.messages)
            for document in message.documents
            if document.start < document.end
            and self._stale(document.id, message.content[document.start : document.end])
        ]


def compared_with(current: Mapping[str, str | None]) -> Stale:
    """Return a check for stale text: text that does not contain the document's current text is stale.

    More than the document may have been read, such as a heading.
    """

    def stale(id: str, text: str) -> bool:
        now = current.get(id, text)
        return now is None or now not in text

    return stale
