"""The wrappers around an index, with stores that LangChain's own indexing writes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.rag import TrackedRecordManager, TrackedRetriever
from langchain_kv_memory.vectorstore import TrackedVectorStore

from ..hashed_words import HashedWords

OLD = [
    Document("Order A-1 is open.", metadata={"source": "a"}),
    Document("Order B-2 is paid.", metadata={"source": "b"}),
]
NEW = [Document("Order A-1 is closed.", metadata={"source": "a"})]
CleanUp = Literal["incremental", "full", "scoped_full"]


def faiss() -> VectorStore:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(HashedWords(), faiss.IndexFlatL2(256), InMemoryDocstore(), {})


STORES = [pytest.param(lambda: InMemoryVectorStore(HashedWords()), id="memory"), pytest.param(faiss, id="faiss")]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> VectorStore:
    if request.param is faiss:
        pytest.importorskip("faiss", reason="faiss-cpu is not installed")
        pytest.importorskip("langchain_community", reason="langchain-community is not installed")
    made: VectorStore = request.param()
    return made


def keep_index(documents: list[Document], manager: Any, store: VectorStore, cleanup: CleanUp) -> None:
    index(documents, manager, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256")


def ids(store: VectorStore) -> dict[str, str | None]:
    return {d.page_content: d.id for d in store.similarity_search("order", k=9)}


@pytest.mark.parametrize(
    ("cleanup", "gone"),
    [
        ("incremental", ["Order A-1 is open."]),
        ("scoped_full", ["Order A-1 is open."]),
        ("full", [d.page_content for d in OLD]),
    ],
)
@pytest.mark.parametrize("wrapped", ["record manager", "store", "both"])
def test_index_tells_what_it_deletes(store: VectorStore, cleanup: CleanUp, gone: list[str], wrapped: str) -> None:
    changes = DocumentChanges()
    manager = InMemoryRecordManager("test")
    seen_manager = TrackedRecordManager(manager, changes) if wrapped != "store" else manager
    seen_store = TrackedVectorStore(store, changes) if wrapped != "record manager" else store
    keep_index(OLD, seen_manager, seen_store, cleanup)
    before = ids(store)
    keep_index(NEW, seen_manager, seen_store, cleanup)
    assert sorted(text for text, id in before.items() if changes.stale(str(id), text)) == sorted(gone)
    assert not any(changes.stale(str(id), text) for text, id in ids(store).items())


async def test_aindex_tells_what_it_deletes(store: VectorStore) -> None:
    changes = DocumentChanges()
    manager, seen = TrackedRecordManager(InMemoryRecordManager("test"), changes), TrackedVectorStore(store, changes)
    for documents in (OLD, NEW):
        before = ids(store)
        await aindex(documents, manager, seen, cleanup="full", key_encoder="sha256")
    assert sorted(text for text, id in before.items() if changes.stale(str(id), text)) == [
        "Order A-1 is open.",
        "Order B-2 is paid.",
    ]


def test_a_document_that_comes_back_is_no_longer_stale(store: VectorStore) -> None:
    changes = DocumentChanges()
    manager = TrackedRecordManager(InMemoryRecordManager("test"), changes)
    keep_index(OLD, manager, store, "full")
    known = ids(store)
    keep_index(NEW, manager, store, "full")
    keep_index(OLD, manager, store, "full")
    assert not any(changes.stale(str(id), text) for text, id in known.items())


def test_direct_delete_and_overwrite() -> None:
    changes = DocumentChanges()
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    store.add_documents([Document("Order A-1 is open.", id="a"), Document("Order B-2 is paid.", id="b")])
    store.add_documents([Document("Order A-1 is open.", id="a")])
    assert not changes.stale("a", "Order A-1 is open.")
    store.add_documents([Document("Order A-1 is closed.", id="a")])
    assert changes.stale("a", "Order A-1 is open.")
    assert not changes.stale("a", "Order A-1 is closed.")
    store.delete(["b"])
    assert changes.stale("b", "Order B-2 is paid.")
    store.add_texts(["Order B-2 is paid."], ids=["b"])
    assert not changes.stale("b", "Order B-2 is paid.")


async def test_direct_delete_and_overwrite_async() -> None:
    changes = DocumentChanges()
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    await store.aadd_documents([Document("Order A-1 is open.", id="a"), Document("Order B-2 is paid.", id="b")])
    await store.aadd_texts(["Order A-1 is closed."], ids=["a"])
    await store.adelete(["b"])
    assert changes.stale("a", "Order A-1 is open.")
    assert changes.stale("b", "Order B-2 is paid.")


def test_the_tracked_store_is_the_store(store: VectorStore) -> None:
    tracked = TrackedVectorStore(store, DocumentChanges())
    tracked.add_documents([Document("Order A-1 is open.", id="a"), Document("Order B-2 is paid.", id="b")])
    assert tracked.embeddings is store.embeddings
    assert [d.id for d in tracked.get_by_ids(["a"])] == ["a"]
    searches: list[Callable[..., Any]] = [tracked.similarity_search, store.similarity_search]
    assert searches[0]("Order B-2", k=1) == searches[1]("Order B-2", k=1)
    assert tracked.similarity_search_with_score("A-1") == store.similarity_search_with_score("A-1")
    assert [d.id for d in tracked.as_retriever(search_kwargs={"k": 1}).invoke("order B-2 paid")] == ["b"]


def test_a_tracked_retriever_gives_ids_and_leaves_changed_documents_out() -> None:
    changes = DocumentChanges()
    store = InMemoryVectorStore(HashedWords())
    store.add_documents([Document("Order A-1 is open.", id="a"), Document("Order B-2 is paid.", id="b")])
    retriever = TrackedRetriever(retriever=store.as_retriever(), changes=changes)
    assert {d.id for d in retriever.invoke("order")} == {"a", "b"}
    changes.deleted(["a"])
    assert [d.id for d in retriever.invoke("order")] == ["b"]
