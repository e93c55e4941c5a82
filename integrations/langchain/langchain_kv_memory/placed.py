"""Documents inside messages: content blocks that carry their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from langchain_kv_memory.documents import document_block


def document_blocks(documents: Sequence[Document], separator: str = "\n\n") -> list[str | dict[str, Any]]:
    """Content blocks for a message that quotes documents: each can then be retracted by its id.

    ```python
    HumanMessage([*document_blocks(retriever.invoke(question)), {"type": "text", "text": question}])
    ```
    """
    return [b for d in documents for b in (document_block(d), {"type": "text", "text": separator})]
