"""A vector store that reports what is deleted from it, and what is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore

from langchain_kv_memory.changes import DocumentChanges

_READS = frozenset(
    name
    for name in dir(VectorStore)
    if "similarity_search" in name or "max_marginal_relevance_search" in name or name == "_select_relevance_score_fn"
)


class TrackedVectorStore(VectorStore):
    """A wrapper of a vector store; every search is the store's own, and what else it can do is there too."""

    def __init__(self, store: VectorStore, changes: DocumentChanges) -> None:
        self._store = store
        self._changes = changes

    def __getattribute__(self, name: str) -> Any:
        return getattr(self._store, name) if name in _READS else super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_store"], name)

    @property
    def embeddings(self) -> Embeddings | None:
        """Return the store's embeddings."""
        return self._store.embeddings

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete documents by their ids."""
        since = self._changes.moment()
        before = self._before(ids or (), {})
        done = self._store.delete(ids, **kwargs)
        if done is not False:
            self._changes.removed(ids or (), before, since=since)
        return done

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Do the same as `delete`."""
        since = self._changes.moment()
        before = await run_in_executor(None, self._before, ids or (), {})
        done = await self._store.adelete(ids, **kwargs)
        if done is not False:
            self._changes.removed(ids or (), before, since=since)
        return done

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add documents; one whose id belongs to other text is a changed document."""
        since = self._changes.moment()
        before = self._before([d.id for d in documents], kwargs)
        ids = self._store.add_documents(documents, **kwargs)
        self._written(ids, [d.page_content for d in documents], before, since)
        return ids

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Do the same as `add_documents`."""
        since = self._changes.moment()
        before = await run_in_executor(None, self._before, [d.id for d in documents], kwargs)
        ids = await self._store.aadd_documents(documents, **kwargs)
        self._written(ids, [d.page_content for d in documents], before, since)
        return ids

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> list[str]:
        """Add texts, as `add_documents` adds documents."""
        written = list(texts)
        since = self._changes.moment()
        before = self._before([], kwargs)
        ids = self._store.add_texts(written, metadatas, **kwargs)
        self._written(ids, written, before, since)
        return ids

    async def aadd_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> list[str]:
        """Do the same as `add_texts`."""
        written = list(texts)
        since = self._changes.moment()
        before = await run_in_executor(None, self._before, [], kwargs)
        ids = await self._store.aadd_texts(written, metadatas, **kwargs)
        self._written(ids, written, before, since)
        return ids

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of these ids, those that there are."""
        return self._store.get_by_ids(ids)

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Do the same as `get_by_ids`."""
        return await self._store.aget_by_ids(ids)

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Search with the store's own search."""
        return self._store.similarity_search(query, k, **kwargs)

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> TrackedVectorStore:
        """Raise NotImplementedError: make the store first, then wrap it."""
        raise NotImplementedError("A tracked store is made of a store: TrackedVectorStore(store, changes).")

    def _before(self, own_ids: Sequence[str | None], kwargs: dict[str, Any]) -> list[Document] | None:
        ids = [id for id in kwargs.get("ids") or own_ids if id]
        try:
            return self._store.get_by_ids(ids) if ids else []
        except NotImplementedError:
            return None

    def _written(self, ids: Sequence[str], texts: Sequence[str], before: list[Document] | None, since: int) -> None:
        pairs = zip(ids, texts, strict=True)
        self._changes.written([Document(text, id=id) for id, text in pairs], before, since=since)
