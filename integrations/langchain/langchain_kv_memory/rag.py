"""Wrappers for an index and a retriever: what is deleted or rewritten there is erased from conversations that read it.

```python
changes = DocumentChanges(model)
store = TrackedVectorStore(store, changes)
index(documents, TrackedRecordManager(record_manager, changes), store, cleanup="incremental", source_id_key="source")
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.indexing import RecordManager
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.documents import document_id


class TrackedRecordManager(RecordManager):
    """A record manager that reports what `index()` deletes, in all its clean-up modes."""

    def __init__(self, record_manager: RecordManager, changes: DocumentChanges) -> None:
        super().__init__(record_manager.namespace)
        self._inner = record_manager
        self._changes = changes

    def delete_keys(self, keys: Sequence[str]) -> None:
        """Delete records; their keys are the ids of the documents."""
        self._inner.delete_keys(keys)
        self._changes.deleted(keys)

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """Do the same as `delete_keys`."""
        await self._inner.adelete_keys(keys)
        self._changes.deleted(keys)

    def update(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Note that these documents are in the index."""
        since = self._changes.moment()
        self._inner.update(keys, group_ids=group_ids, time_at_least=time_at_least)
        self._changes.restored(keys, since=since)

    async def aupdate(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Do the same as `update`."""
        since = self._changes.moment()
        await self._inner.aupdate(keys, group_ids=group_ids, time_at_least=time_at_least)
        self._changes.restored(keys, since=since)

    def create_schema(self) -> None:
        """Make the tables."""
        self._inner.create_schema()

    async def acreate_schema(self) -> None:
        """Make the tables."""
        await self._inner.acreate_schema()

    def get_time(self) -> float:
        """Return the time of the server."""
        return self._inner.get_time()

    async def aget_time(self) -> float:
        """Return the time of the server."""
        return await self._inner.aget_time()

    def exists(self, keys: Sequence[str]) -> list[bool]:
        """Return for each of these keys whether there is a record."""
        return self._inner.exists(keys)

    async def aexists(self, keys: Sequence[str]) -> list[bool]:
        """Do the same as `exists`."""
        return await self._inner.aexists(keys)

    def list_keys(self, **filters: Any) -> list[str]:
        """Return the keys of the records that pass the filters."""
        return self._inner.list_keys(**filters)

    async def alist_keys(self, **filters: Any) -> list[str]:
        """Do the same as `list_keys`."""
        return await self._inner.alist_keys(**filters)


class TrackedRetriever(BaseRetriever):
    """A retriever whose documents all have an id, and of which none has changed in the meantime.

    A document without an id gets a digest of its text, so that it can be retracted.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    retriever: BaseRetriever
    changes: DocumentChanges

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self._tracked(self.retriever.invoke(query, {"callbacks": run_manager.get_child()}))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self._tracked(await self.retriever.ainvoke(query, {"callbacks": run_manager.get_child()}))

    def _tracked(self, documents: list[Document]) -> list[Document]:
        found = [document.model_copy(update={"id": document_id(document)}) for document in documents]
        return [d for d in found if not self.changes.stale(document_id(d), d.page_content)]
