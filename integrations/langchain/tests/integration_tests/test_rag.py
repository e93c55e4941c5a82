"""A chat over an index that changes, with the pocket model: what was deleted is gone from the conversation."""

from __future__ import annotations

from typing import Literal

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore

from kv_memory import Memory, Policy
from langchain_kv_memory import ErasableChatModel
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.rag import TrackedRecordManager, TrackedRetriever
from langchain_kv_memory.vectorstore import TrackedVectorStore

from ..hashed_words import HashedWords
from .orders import holds
from .rag_chat import Chat


def fee(amount: str) -> Document:
    return Document(f"The fee of Z-3 is {amount}.", metadata={"source": "Z-3"}, id="z3")


OLD = fee("19.00")
OWNER = Document("The owner of P-310 is Ada.", metadata={"source": "P-310"}, id="p310")


@pytest.mark.parametrize("cleanup", ["incremental", "full", "scoped_full"])
def test_a_document_that_index_replaces_leaves_each_session_at_its_next_call(
    model: ErasableChatModel, cleanup: Literal["incremental", "full", "scoped_full"]
) -> None:
    changes = DocumentChanges(model)
    store = InMemoryVectorStore(HashedWords())
    manager = TrackedRecordManager(InMemoryRecordManager("n"), changes)
    retriever = TrackedRetriever(retriever=store.as_retriever(), changes=changes)

    def update(*documents: Document) -> None:
        index(documents, manager, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256")

    update(OLD, OWNER)
    chats = [Chat(model, retriever, name) for name in ("a", "b")]
    for chat in chats:
        chat.ask("What is the fee of Z-3?")
        assert all(cells > 0 for _, cells in chat.documents())
    update(fee("32.00"), OWNER)
    for chat in chats:
        chat.ask("Is there anything else?", look_up=False)
        assert not holds(model, OLD.page_content, chat.thread)
        assert sorted(cells > 0 for _, cells in chat.documents()) == [False, True], "the new one is not retrieved yet"
        chat.ask("What is the fee of Z-3?")
        assert holds(model, fee("32.00").page_content, chat.thread)


def test_direct_delete_and_overwrite(model: ErasableChatModel) -> None:
    changes = DocumentChanges(model)
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    store.add_documents([fee("19.00"), OWNER])
    chat = Chat(model, TrackedRetriever(retriever=store.as_retriever(), changes=changes))
    chat.ask("What is the fee of Z-3?")
    store.add_documents([fee("32.00")])
    chat.ask("What is the fee of Z-3?")
    assert [cells > 0 for id, cells in chat.documents() if id == "z3"] == [False, True]
    store.delete(["p310"])
    chat.ask("What is the owner of P-310?", look_up=False)
    assert {cells for id, cells in chat.documents() if id == "p310"} == {0}
    assert [cells > 0 for id, cells in chat.documents() if id == "z3"] == [False, True]


def test_an_answer_that_rests_on_a_withdrawn_document_can_go_with_it(pocket: Memory) -> None:
    model = ErasableChatModel.wrap(pocket.engine, max_tokens=8, heal="never", policy=Policy(cascade="retract"))
    changes = DocumentChanges(model)
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    store.add_documents([OLD, OWNER])
    chat = Chat(model, TrackedRetriever(retriever=store.as_retriever(), changes=changes))
    assert chat.ask("What is the fee of Z-3?") == "19.00"
    store.delete(["z3"])
    chat.ask("Is there anything else?", look_up=False)
    assert not holds(model, "19.00", chat.thread)
