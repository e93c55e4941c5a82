"""Documents inside messages: content blocks that carry their ids, and where documents stand in a message's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage

from langchain_kv_memory.convert import text_of
from langchain_kv_memory.documents import document_block, document_id, documents_of, places


class PlacedDocument(NamedTuple):
    """Characters [start, end) of a message's text are this document."""

    id: str
    text: str
    start: int
    end: int


def document_blocks(documents: Sequence[Document], separator: str = "\n\n") -> list[str | dict[str, Any]]:
    """Content blocks for a message that quotes documents: each can then be retracted by its id.

    ```python
    HumanMessage([*document_blocks(retriever.invoke(question)), {"type": "text", "text": question}])
    ```
    """
    return [b for d in documents for b in (document_block(d), {"type": "text", "text": separator})]


def documents_in(message: BaseMessage) -> Iterator[PlacedDocument]:
    """The documents of a message: blocks with a `document_id`, and those of a tool's artifact that its text quotes."""
    if isinstance(message.content, str):
        documents = documents_of(message.artifact) if isinstance(message, ToolMessage) else []
        for document, start, end in places(message.content, documents):
            yield PlacedDocument(document_id(document), document.page_content, start, end)
        return
    at = 0
    for block in message.content:
        text = text_of(message.model_copy(update={"content": [block]}))
        if isinstance(block, Mapping) and block.get("document_id") is not None:
            yield PlacedDocument(str(block["document_id"]), text, at, at + len(text))
        at += len(text)
