"""Documents that are no longer what they were when they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation

Stale = Callable[[str, str], bool]


class ChangedDocument:
    """A document goes, wherever it stands, when it was deleted or written anew.

    `current`: the text of documents by their ids, None for a deleted one; an id that is not there says nothing. Or a
    function from a document's id and the text that was read to whether that is stale.
    """

    name: ClassVar[str] = "changed_document"

    def __init__(self, current: Mapping[str, str | None] | Stale) -> None:
        self._stale = compared_with(current) if isinstance(current, Mapping) else current

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """The documents that are no longer what they were."""
        conversation = Conversation(messages)
        return [
            conversation.decision(i, "document changed", Category.STALE, self.name, (document.start, document.end))
            for i, message in enumerate(conversation.messages)
            for document in message.documents
            if document.start < document.end
            and self._stale(document.id, message.content[document.start : document.end])
        ]


def compared_with(current: Mapping[str, str | None]) -> Stale:
    """Stale is what no longer holds the current text; more than that may have been read, such as a heading."""

    def stale(id: str, text: str) -> bool:
        now = current.get(id, text)
        return now is None or now not in text

    return stale
