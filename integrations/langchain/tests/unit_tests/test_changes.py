"""What an index is known to hold, by what its wrappers tell: which texts of a document are stale."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.text_digests import TextDigests
from langchain_kv_memory.vectorstore import TrackedVectorStore

from ..hashed_words import HashedWords

OLD, NEW, OTHER = "The fee is 19.00.", "The fee is 32.00.", "The owner is Ada."


class Silent(InMemoryVectorStore):
    """A store that cannot tell what it holds."""

    def get_by_ids(self, ids: Any, /) -> list[Document]:
        raise NotImplementedError


class Interrupted(InMemoryVectorStore):
    """A store in which something else happens while it adds or deletes."""

    def __init__(self) -> None:
        super().__init__(HashedWords())
        self.meanwhile: list[Callable[[], object]] = []

    def add_documents(self, documents: list[Document], ids: list[str] | None = None, **kwargs: Any) -> list[str]:
        added = super().add_documents(documents, ids, **kwargs)
        self._interrupt()
        return added

    def delete(self, ids: Any = None, **kwargs: Any) -> None:
        self._interrupt()
        super().delete(ids, **kwargs)

    def _interrupt(self) -> None:
        while self.meanwhile:
            self.meanwhile.pop()()


def a(text: str) -> list[Document]:
    return [Document(text, id="a")]


def store_of(changes: DocumentChanges, *, silent: bool = False) -> TrackedVectorStore:
    return TrackedVectorStore((Silent if silent else InMemoryVectorStore)(HashedWords()), changes)


def stale(changes: DocumentChanges, *texts: str) -> list[bool]:
    return [changes.stale("a", text) for text in texts]


@pytest.mark.parametrize("silent", [False, True], ids=["a store that tells", "a store that cannot tell"])
@pytest.mark.parametrize("known", [True, False], ids=["written here", "written earlier"])
def test_a_document_that_was_deleted_is_fresh_again_only_with_its_text(silent: bool, known: bool) -> None:
    changes = DocumentChanges()
    store = store_of(changes, silent=silent)
    (store if known else store._store).add_documents(a(OLD))
    store.delete(["a"])
    assert stale(changes, OLD) == [True]
    store.add_documents(a(OLD))
    assert stale(changes, OLD, f"Fees: {OLD}", NEW) == [False, False, True]
    store.delete(["a"])
    store.add_documents(a(NEW))
    assert stale(changes, OLD, NEW) == [True, False]
    store.delete(["a"])
    assert stale(changes, OLD, NEW) == [True, True]


async def test_asynchronous_methods_say_the_same() -> None:
    changes = DocumentChanges()
    store = store_of(changes)
    await store.aadd_documents(a(OLD))
    await store.adelete(["a"])
    await store.aadd_texts([OLD], ids=["a"])
    assert stale(changes, OLD) == [False]
    await store.adelete(["a"])
    await store.aadd_documents(a(NEW))
    assert stale(changes, OLD, NEW) == [True, False]


@pytest.mark.parametrize("short", ["The fee", ""])
def test_a_document_that_was_shortened_has_changed(short: str) -> None:
    changes = DocumentChanges()
    store = store_of(changes)
    store.add_documents(a(OLD))
    store.add_documents(a(short))
    assert stale(changes, OLD, f"Fees: {OLD}") == [True, True]
    assert stale(changes, short) == [False]
    store.add_documents(a(OLD))
    assert stale(changes, OLD, short) == [False, True]


def test_an_id_of_two_stores_is_two_documents() -> None:
    changes = DocumentChanges()
    one, two = store_of(changes), store_of(changes)
    one.add_documents(a(OLD))
    two.add_documents(a(OTHER))
    one.delete(["a"])
    assert stale(changes, OLD, OTHER) == [True, False]
    two.add_documents(a(OTHER))
    assert stale(changes, OLD, OTHER) == [True, False], "the other store does not bring it back"
    one.add_documents(a(OLD))
    assert stale(changes, OLD, OTHER) == [False, False]
    two.add_documents(a(NEW))
    assert stale(changes, OLD, NEW, OTHER) == [False, False, True]


def test_two_wrappers_of_one_store_are_one_store() -> None:
    changes = DocumentChanges()
    store = InMemoryVectorStore(HashedWords())
    TrackedVectorStore(store, changes).add_documents(a(OLD))
    TrackedVectorStore(store, changes).delete(["a"])
    assert stale(changes, OLD) == [True]
    TrackedVectorStore(store, changes).add_documents(a(OLD))
    assert stale(changes, OLD) == [False]


def test_a_record_manager_does_not_bring_back_what_it_did_not_delete() -> None:
    changes = DocumentChanges()
    store = store_of(changes)
    store.add_documents(a(OLD))
    store.delete(["a"])
    changes.restored(["a"])  # index() skips what has a record
    assert stale(changes, OLD) == [True]
    store.add_documents(a(OLD))
    changes.deleted(["a"])
    assert stale(changes, OLD) == [True]
    changes.restored(["a"])
    assert stale(changes, OLD) == [False]


def test_the_store_says_what_the_text_of_a_restored_document_is() -> None:
    changes = DocumentChanges()
    changes.deleted(iter(["a"]))
    changes.written(a(NEW), [])
    assert stale(changes, OLD, NEW) == [True, False]
    changes.restored(["a"])
    assert stale(changes, OLD, NEW) == [True, False]


def test_a_deletion_during_a_write_counts() -> None:
    changes = DocumentChanges()
    inner = Interrupted()
    store = TrackedVectorStore(inner, changes)
    inner.meanwhile = [lambda: store.delete(["a"])]
    store.add_documents(a(OLD))
    assert inner.get_by_ids(["a"]) == []
    assert stale(changes, OLD) == [True]
    since = changes.moment()
    changes.deleted(["b"])
    changes.restored(["b"], since=since)
    assert changes.stale("b", OLD)


def test_a_write_during_a_deletion_does_not_outlive_it() -> None:
    changes = DocumentChanges()
    inner = Interrupted()
    store = TrackedVectorStore(inner, changes)
    store.add_documents(a(OLD))
    inner.meanwhile = [lambda: store.add_documents(a(NEW))]
    store.delete(["a"])
    assert inner.get_by_ids(["a"]) == []
    assert stale(changes, OLD, NEW) == [True, True]


def test_threads_lose_no_change() -> None:
    changes = DocumentChanges()

    def work(name: str) -> None:
        for number in range(200):
            documents = [Document(OLD, id=f"{name}-{number}")]
            changes.written(documents, [])
            changes.removed([f"{name}-{number}"], documents)
            if number % 2:
                changes.written(documents, [])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    gone = {f"{name}-{number}" for name in "abcd" for number in range(200) if changes.stale(f"{name}-{number}", OLD)}
    assert gone == {f"{name}-{number}" for name in "abcd" for number in range(0, 200, 2)}


def test_no_text_is_kept_and_a_digest_is_of_use_to_its_maker_alone() -> None:
    changes = DocumentChanges()
    store = store_of(changes)
    store.add_documents(a(OLD))
    store.delete(["a"])
    store.add_documents(a(NEW))
    assert "fee" not in repr(vars(changes))
    one, two = TextDigests(), TextDigests()
    assert one.of(OLD) == one.of(OLD) != two.of(OLD)


def test_old_versions_of_a_document_are_few() -> None:
    changes = DocumentChanges()
    store = store_of(changes)
    versions = [f"The fee is {number}.00." for number in range(100)]
    for version in versions:
        store.add_documents(a(version))
    assert stale(changes, *versions) == [True] * 99 + [False]
    assert max(map(len, changes._former.values())) < 10


def test_the_longest_text_within_another() -> None:
    digests = TextDigests()
    made = {text: digests.of(text) for text in ("", "ab", "abc", "é\ud800")}
    assert digests.longest_in("xabcx", made.values()) == made["abc"]
    assert digests.longest_in("xabx", made.values()) == made["ab"]
    assert digests.longest_in("-é\ud800", made.values()) == made["é\ud800"]
    assert digests.longest_in("", made.values()) == made[""]
    assert digests.longest_in("x", made.values()) is None
