"""What becomes of a document that was read is decided at a conversation's next call, wherever it was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.vectorstores import InMemoryVectorStore

from kv_memory import AuditError, AuditLog, Memory
from langchain_kv_memory import ErasableChatModel, RetractionReport, document_blocks
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.policies import ChangedDocument
from langchain_kv_memory.vectorstore import TrackedVectorStore

from ..hashed_words import HashedWords
from .orders import holds, thread
from .rag_chat import Chat
from .scripted import Scripted
from .talk import THREAD, Talk

FEE, NEW_FEE = Document("The fee of Z-3 is 19.00.", id="z3"), Document("The fee of Z-3 is 32.00.", id="z3")
OWNER = Document("The owner of P-310 is Ada.", id="p310")
Change = Callable[[TrackedVectorStore, DocumentChanges], object]
CHANGES: list[Change] = [
    lambda store, changes: store.delete(["z3"]),
    lambda store, changes: changes.deleted(["z3"]),
    lambda store, changes: store.add_documents([NEW_FEE]),
]
NAMES = ["deleted from the store", "deleted from the records", "replaced"]


@pytest.fixture
def reports(model: ErasableChatModel) -> list[RetractionReport]:
    reports: list[RetractionReport] = []
    model.on_retract = reports.append
    return reports


@pytest.fixture
def changes(model: ErasableChatModel, reports: list[RetractionReport]) -> DocumentChanges:
    return DocumentChanges(model)


@pytest.fixture
def store(changes: DocumentChanges) -> TrackedVectorStore:
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    store.add_documents([FEE, OWNER])
    return store


@pytest.fixture
def chat(model: ErasableChatModel, store: TrackedVectorStore) -> Chat:
    chat = Chat(model, store.as_retriever())
    chat.ask("What is the fee of Z-3?")
    return chat


def go_on(chat: Chat) -> dict[str, bool]:
    """Which documents are in the cache after another answer."""
    chat.ask("Is there anything else?", look_up=False)
    return {id: cells > 0 for id, cells in chat.documents()}


def test_a_document_that_is_back_before_the_next_call_was_never_gone(
    store: TrackedVectorStore, chat: Chat, reports: list[RetractionReport]
) -> None:
    store.delete(["z3", "p310"])
    store.add_documents([FEE])
    assert go_on(chat) == {"z3": True, "p310": False}
    assert [part.targets for report in reports for part in report.parts] == [("p310",)]
    store.delete(["z3"])
    assert go_on(chat) == {"z3": False, "p310": False}, "the next deletion counts"
    store.add_documents([FEE])
    assert go_on(chat) == {"z3": False, "p310": False}, "it comes back when it is retrieved"


def test_each_retraction_is_reported_once_with_what_has_become_of_the_document(
    store: TrackedVectorStore, changes: DocumentChanges, chat: Chat, reports: list[RetractionReport]
) -> None:
    store.delete(["z3"])
    store.add_documents([NEW_FEE])
    store.delete(["p310"])
    changes.deleted(["p310"])
    assert go_on(chat) == {"z3": False, "p310": False}
    assert sorted(report.reason for report in reports) == [
        "stale: deleted from the index",
        "stale: replaced in the index",
    ]
    store.delete(["z3", "p310"])
    go_on(chat)
    assert len(reports) == 2, "what is erased already is left alone"


def test_only_the_stale_one_of_two_versions_goes(
    model: ErasableChatModel, store: TrackedVectorStore, reports: list[RetractionReport]
) -> None:
    chat = Chat(model, store.as_retriever())
    said = HumanMessage([*document_blocks([FEE, NEW_FEE]), {"type": "text", "text": "Hello."}])
    chat.history += [said, model.invoke([said], chat.thread)]
    store.add_documents([NEW_FEE])
    chat.ask("Is there anything else?", look_up=False)
    assert [cells > 0 for _, cells in chat.documents()] == [False, True]
    assert len(reports) == 1


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
@pytest.mark.parametrize("evicted", [False, True], ids=["cached", "evicted"])
def test_a_document_leaves_each_branch_and_each_session(
    model: ErasableChatModel, store: TrackedVectorStore, changes: DocumentChanges, change: Change, evicted: bool
) -> None:
    call = {"name": "retrieve", "args": {"it": "fees"}, "id": "call_1"}
    found = ToolMessage(f"{FEE.page_content}\n\n{OWNER.page_content}", artifact=[FEE, OWNER], tool_call_id="call_1")
    main: list[BaseMessage] = [HumanMessage("Look the fees up."), AIMessage("", tool_calls=[call]), found]
    sub: list[BaseMessage] = [
        HumanMessage([{"type": "text", "text": "You sum up pages. "}, *document_blocks([FEE, OWNER])])
    ]
    fork: list[BaseMessage] = [*main, AIMessage("Noted."), HumanMessage("And in short?")]
    talks = [("t", main), ("t", sub), ("t", fork), ("u", sub)]
    for name, said in talks:
        said.append(model.invoke(said, thread(name)))
    sessions = [model.load().session(name) for name in "tu"]
    held = [sum(FEE.id in {s.document_id for s in b.ledger.spans()} for b in session.branches) for session in sessions]
    assert held[0] >= 2 and held[1] == 1
    for session in sessions if evicted else ():
        session.evict()
    change(store, changes)
    for name, said in (talks[0], talks[3]):
        model.invoke([*said, HumanMessage("Is there anything else?")], thread(name))
        assert not holds(model, FEE.page_content, thread(name)), "in no branch, though only one was called"
    for name, said in talks:
        model.invoke([*said, HumanMessage("And now?")], thread(name))
        assert not holds(model, FEE.page_content, thread(name))
        assert holds(model, OWNER.page_content, thread(name))


def test_an_agent_keeps_what_is_back(model: ErasableChatModel) -> None:
    scripted = Scripted(memory=model.memory, max_tokens=24)
    changes = DocumentChanges(scripted)
    store = TrackedVectorStore(InMemoryVectorStore(HashedWords()), changes)
    store.add_documents([FEE, OWNER])
    talk = Talk(scripted, [ChangedDocument(changes)])
    talk.say("retrieve(pages)", [FEE, OWNER])
    store.delete(["z3", "p310"])
    store.add_documents([FEE])
    talk.say("What is the fee of Z-3?")
    assert holds(scripted, FEE.page_content, THREAD)
    assert not holds(scripted, OWNER.page_content, THREAD)
    (message,) = talk.tool_messages
    assert message.text.strip() == FEE.page_content


@pytest.mark.parametrize("apart", [False, True], ids=["in one conversation", "in two"])
def test_a_message_with_the_id_of_a_document_stays(
    model: ErasableChatModel, store: TrackedVectorStore, chat: Chat, apart: bool
) -> None:
    other = HumanMessage("The fine weather stays.", id="z3")
    chat.history += [] if apart else [other, AIMessage("Noted.")]
    model.invoke([other] if apart else [*chat.history, HumanMessage("Hello.")], chat.thread)
    store.delete(["z3"])
    assert not go_on(chat)["z3"]
    assert holds(model, "The fine weather stays.", chat.thread)


@pytest.mark.parametrize("error", [AuditError("The disk is full."), RuntimeError("out of memory")])
def test_a_retraction_that_fails_is_tried_again(
    store: TrackedVectorStore, chat: Chat, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*targets: object, **options: object) -> RetractionReport:
        raise error

    store.delete(["z3"])
    fails = pytest.raises(RuntimeError, match="out of memory")
    warns = pytest.warns(UserWarning, match=r"Stale documents were not retracted yet: The disk is full\.")
    with monkeypatch.context() as patched, warns if isinstance(error, AuditError) else fails:
        patched.setattr(ErasableChatModel, "retract", fail)
        assert go_on(chat)["z3"]
    assert not go_on(chat)["z3"]


def test_the_audit_log_names_the_document(pocket: Memory, tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.sqlite")
    model = ErasableChatModel.wrap(pocket.engine, max_tokens=8, heal="never", audit=audit)
    changes = DocumentChanges(model)
    chat = Chat(model, InMemoryVectorStore.from_documents([FEE, OWNER], HashedWords()).as_retriever())
    chat.ask("What is the fee of Z-3?")
    changes.deleted(["z3"])
    go_on(chat)
    assert {target.name for row in audit.entries() for target in row.targets} == {"z3"}
