"""LangChain's `index` deletes unchanged documents and adds them again between its batches: conversations keep them."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import IndexingResult, InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_kv_memory import ErasableChatModel
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.rag import TrackedRecordManager
from langchain_kv_memory.vectorstore import TrackedVectorStore

from ..hashed_words import HashedWords
from .orders import holds
from .rag_chat import Chat

CleanUp = Literal["incremental", "full", "scoped_full"]
PARTS = [f"The fee of Z-{n} is {n}9.00." for n in range(1, 6)]
"""Parts of one page, as a text splitter makes them: the batches of `index` tear them apart."""


class Page:
    """An index of one page, and a conversation that has read all of it."""

    def __init__(
        self, model: ErasableChatModel, cleanup: CleanUp, batch_size: int, wrapped: str, *, sync: bool = True
    ) -> None:
        self.changes = DocumentChanges(model)
        store, records = InMemoryVectorStore(HashedWords()), InMemoryRecordManager("page")
        self.store = store if wrapped == "record manager" else TrackedVectorStore(store, self.changes)
        self.records = records if wrapped == "store" else TrackedRecordManager(records, self.changes)
        self.options: dict[str, Any] = {"cleanup": cleanup, "batch_size": batch_size, "source_id_key": "source"}
        self.sync = sync
        self.update(PARTS)
        self.chat = Chat(model, self.store.as_retriever(search_kwargs={"k": 9}))
        self.chat.ask("What is the fee of Z-3?")

    def update(self, parts: list[str], **options: Any) -> IndexingResult:
        documents = [Document(part, metadata={"source": "page"}) for part in parts]
        options = {"key_encoder": "sha256", **self.options, **options}
        if self.sync:
            return index(documents, self.records, self.store, **options)
        return asyncio.run(aindex(documents, self.records, self.store, **options))

    def left(self, parts: list[str]) -> list[str]:
        """Those parts that are in the cache after another answer."""
        self.chat.ask("Is there anything else?", look_up=False)
        return [part for part in parts if holds(self.chat.model, part, self.chat.thread)]


@pytest.mark.parametrize("sync", [True, False], ids=["index", "aindex"])
@pytest.mark.parametrize("wrapped", ["record manager", "store", "both"])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("cleanup", ["incremental", "full", "scoped_full"])
def test_conversations_keep_what_has_not_changed(
    model: ErasableChatModel, cleanup: CleanUp, batch_size: int, wrapped: str, sync: bool
) -> None:
    page = Page(model, cleanup, batch_size, wrapped, sync=sync)
    done = page.update(PARTS)
    torn = cleanup == "incremental" and batch_size < len(PARTS)
    assert (done["num_deleted"] > 0) is torn, "index() deletes unchanged documents and adds them in a later batch"
    assert page.left(PARTS) == PARTS
    page.update([*PARTS[:2], "The fee of Z-3 is 77.00.", *PARTS[3:]])
    assert page.left(PARTS) == [*PARTS[:2], *PARTS[3:]]
