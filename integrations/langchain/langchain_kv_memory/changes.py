"""The changes of documents since they were read. Each conversation looks at its next call what has become of them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from langchain_core.documents import Document

from kv_memory import Category, KVMemoryError, Reason, Session, SpanKind
from langchain_kv_memory.cached_documents import CachedDocument, cached_documents
from langchain_kv_memory.chat_model import ErasableChatModel
from langchain_kv_memory.text_digests import TextDigest, TextDigests
from langchain_kv_memory.warn import warn

_KEPT = 8
"""Texts of one document that are remembered; older ones are treated as any other text that is not the current one."""


class DocumentChanges:
    """A record of changed documents, fed by `TrackedRecordManager` and `TrackedVectorStore`.

    Holds the id of each document that was written or deleted through these, and keyed digests of its texts, as long as
    the process lives. The policy `ChangedDocument` reads it. The models are told at once, without waiting: before its
    next answer each of their sessions erases what is stale then. A document that was deleted and is back with the same
    text, as `index(cleanup="incremental")` does between its batches, is not. An agent's state needs `ChangedDocument`
    as well, so that its messages do not bring the old documents back.

    Stores in which an id may mean different documents share one object: a deletion in one of them is not about another
    text that another one holds under this id.
    """

    def __init__(self, *models: ErasableChatModel) -> None:
        self._models = models
        self._digests = TextDigests()
        self._present: dict[str, tuple[TextDigest, ...]] = {}
        """Texts that stores hold under an id, as far as they were written by way of the wrappers."""
        self._former: dict[str, tuple[TextDigest, ...]] = {}
        """Texts that changed documents had, as far as they are known."""
        self._unrecorded: set[str] = set()
        """Ids that record managers have deleted; these know no texts."""
        self._deletions: dict[str, int] = {}
        """Number of the last deletion of each id."""
        self._last_write = 0
        self._moment = 0
        """Number of writes and deletions so far."""
        self._waiting: WeakKeyDictionary[Session, set[str]] = WeakKeyDictionary()
        """Ids that a session has yet to look for."""
        self._lock = threading.Lock()

    def moment(self) -> int:
        """Return a number for what was noted so far, to be asked for before a store is changed: of a deletion and a
        write that overlap, the deletion counts."""
        return self._moment

    def deleted(self, ids: Iterable[str]) -> None:
        """Note that these documents are no longer in the index, until they are `restored` or `written`."""
        gone = list(ids)
        with self._lock:
            self._unrecorded.update(gone)
            self._note_deletion(gone)
        self._tell(gone)

    def restored(self, ids: Iterable[str], *, since: int | None = None) -> None:
        """Note that documents that were `deleted` are back with the text that they had: `index()` makes ids of the
        text.

        `since`: the `moment` before they were written.
        """
        with self._lock:
            self._unrecorded.difference_update(id for id in ids if not self._overtaken(id, since))

    def removed(self, ids: Collection[str], before: Sequence[Document] | None, *, since: int | None = None) -> None:
        """Note that a store holds nothing under these ids any more, until something is `written`.

        `before`: the documents under these ids until then; None where the store cannot tell. `since`: the `moment`
        before these were looked up.
        """
        old = self._texts(before)
        with self._lock:
            if since is not None and self._last_write > since:
                old = None  # what was written in the meantime may have been deleted
            for id in ids:
                self._move(id, gone=self._replaced(id, old))
            self._note_deletion(ids)
        self._tell(ids)

    def written(
        self, documents: Sequence[Document], before: Sequence[Document] | None, *, since: int | None = None
    ) -> None:
        """Note that a store holds these documents, with their ids, now.

        `before`: the documents under these ids until then; None where the store cannot tell. `since`: the `moment`
        before they were written.
        """
        old, new = self._texts(before), self._texts(documents) or {}
        with self._lock:
            changed = [id for id, text in new.items() if self._write(id, text, old, since)]
            self._moment += 1
            self._last_write = self._moment
        self._tell(changed)

    def stale(self, id: str, text: str) -> bool:
        """Return whether a document that was read as `text`, or as part of it, has changed in the index."""
        with self._lock:
            former, present = self._former.get(id), self._present.get(id, ())
            if former is None or id in self._unrecorded:
                return id in self._unrecorded
        # a text that was shortened contains what is left of it: the longest one is the one that was read
        return self._digests.longest_in(text, (*present, *former)) not in present

    def _texts(self, documents: Sequence[Document] | None) -> dict[str, TextDigest] | None:
        if documents is None:
            return None
        return {d.id: self._digests.of(d.page_content) for d in documents if d.id is not None}

    def _write(self, id: str, text: TextDigest, old: Mapping[str, TextDigest] | None, since: int | None) -> bool:
        """Note one document; return whether one that was read under this id may be stale."""
        gone = tuple(known for known in self._replaced(id, old) if known != text)
        overtaken = self._overtaken(id, since)
        changed = bool(gone) or old is None or overtaken
        if changed or id in self._former or id in self._unrecorded:
            self._move(id, gone=(*gone, text) if overtaken else gone, there=() if overtaken else (text,))
        else:
            self._present[id] = (*(known for known in self._present.get(id, ()) if known != text), text)[-_KEPT:]
        if not overtaken:
            self._unrecorded.discard(id)
        return changed

    def _replaced(self, id: str, old: Mapping[str, TextDigest] | None) -> tuple[TextDigest, ...]:
        """Return the texts that a store held under an id: all that are known where it cannot tell."""
        if old is None:
            return self._present.get(id, ())
        return (old[id],) if id in old else ()

    def _move(self, id: str, *, gone: tuple[TextDigest, ...], there: tuple[TextDigest, ...] = ()) -> None:
        present, former = self._present.pop(id, ()), self._former.get(id, ())
        moved = {*gone, *there}
        if left := (*(text for text in present if text not in moved), *there):
            self._present[id] = left[-_KEPT:]
        self._former[id] = (*(text for text in former if text not in moved), *gone)[-_KEPT:]

    def _note_deletion(self, ids: Collection[str]) -> None:
        self._moment += 1
        self._deletions.update(dict.fromkeys(ids, self._moment))

    def _overtaken(self, id: str, since: int | None) -> bool:
        """Return whether the document was deleted while it was written: which came first in the store is not known."""
        return since is not None and self._deletions.get(id, 0) > since

    def _tell(self, ids: Collection[str]) -> None:
        """Have each session look for these documents before it reads its next conversation; never waits."""
        for model in self._models if ids else ():
            memory = model.ready
            for session in filter(None, map(memory.get, memory.sessions())) if memory else ():
                self._defer(model, session, ids)

    def _defer(self, model: ErasableChatModel, session: Session, ids: Collection[str]) -> None:
        with self._lock:
            waiting = self._waiting.setdefault(session, set())
            waits = bool(waiting)
            waiting.update(ids)
        if not waits:
            session.defer(partial(self._catch_up, model, session))

    def _catch_up(self, model: ErasableChatModel, session: Session) -> None:
        """Retract from a session what is stale now of what it was told of."""
        with self._lock:
            ids = self._waiting.pop(session, set())
        try:
            self._retract(model, session, ids)
        except BaseException as error:
            self._defer(model, session, ids)  # what was deleted must not stay for good
            if not isinstance(error, KVMemoryError):
                raise
            warn(f"Stale documents were not retracted yet: {error}")  # the answer that is due does not fail for it

    def _retract(self, model: ErasableChatModel, session: Session, ids: Collection[str]) -> None:
        found = list(cached_documents(session, ids))
        stale: dict[str, list[CachedDocument]] = {}
        for document in found:
            if self.stale(document.id, document.text):
                change = "replaced in" if document.id in self._present else "deleted from"
                stale.setdefault(f"{change} the index", []).append(document)
        for text, documents in stale.items():
            targets = _targets(session, documents, found)
            reason = Reason(category=Category.STALE, text=text)
            model.retract(*targets, session_id=session.id, scope="session", reason=reason, missing="ignore")


def _targets(session: Session, stale: Sequence[CachedDocument], found: Sequence[CachedDocument]) -> list[str]:
    """Return the ids of these documents, or of their spans where a document's id names other things too."""
    fresh = {document.id for document in set(found).difference(stale)}
    ids = {document.id for document in stale if document.id not in fresh}
    plain = {id for id in ids if _names_documents(session, id)}
    return list(dict.fromkeys(document.id if document.id in plain else document.span_id for document in stale))


def _names_documents(session: Session, id: str) -> bool:
    try:
        return all(span.kind is SpanKind.DOCUMENT for span in session.find(id))
    except KVMemoryError:
        return False
