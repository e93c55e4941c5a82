"""Documents as content blocks, and the places of an artifact's documents in the tool message's text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document


def document_id(document: Document) -> str:
    """Return the document's id; a digest of its text where it has none, so that it can be retracted all the same."""
    return document.id or hashlib.sha256(document.page_content.encode()).hexdigest()


def document_block(document: Document) -> dict[str, Any]:
    """Return a text block that carries the document's id."""
    return {"type": "text", "text": document.page_content, "document_id": document_id(document)}


def document_blocks(documents: Sequence[Document], separator: str = "\n\n") -> list[str | dict[str, Any]]:
    """Return content blocks for a message that quotes documents: each can then be retracted by its id.

    ```python
    HumanMessage([*document_blocks(retriever.invoke(question)), {"type": "text", "text": question}])
    ```
    """
    return [b for d in documents for b in (document_block(d), {"type": "text", "text": separator})]


def documents_of(artifact: Any) -> list[Document]:
    """Return the documents of a tool's artifact; one that went through a checkpoint is a list of dicts."""
    found = [_document(item) for item in artifact] if isinstance(artifact, (list, tuple)) else []
    return [document for document in found if document is not None]


def places(text: str, documents: Sequence[Document]) -> list[tuple[Document, int, int]]:
    """Return the documents that occur in the text, in their order, each with its characters (start, end)."""
    found, at = [], 0
    for document in documents:
        start = text.find(document.page_content, at) if document.page_content else -1
        if start >= 0:
            at = start + len(document.page_content)
            found.append((document, start, at))
    return found


def _document(item: Any) -> Document | None:
    if isinstance(item, Document):
        return item
    if isinstance(item, Mapping) and item.get("type") == "Document" and isinstance(item.get("page_content"), str):
        return Document(item["page_content"], id=item.get("id"), metadata=item.get("metadata") or {})
    return None
