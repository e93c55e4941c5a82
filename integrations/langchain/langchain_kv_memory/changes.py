"""The changes of documents since they were read: a queue that each conversation works off at its next call."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence

from langchain_core.documents import Document

from kv_memory import Category, Reason
from langchain_kv_memory.chat_model import ErasableChatModel


class DocumentChanges:
    """A record of changed documents, fed by `TrackedRecordManager` and `TrackedVectorStore`.

    Holds the ids that were deleted, and the new text of those that were replaced, as long as the process lives. The
    policy `ChangedDocument` reads it. The models are told at once, without waiting: each of their sessions erases the
    old documents before its next answer. An agent's state needs `ChangedDocument` as well, so that its messages do not
    bring them back.
    """

    def __init__(self, *models: ErasableChatModel) -> None:
        self._models = models
        self._now: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def deleted(self, ids: Iterable[str]) -> None:
        """Note that these documents are no longer in the index."""
        with self._lock:  # a record manager and its store may both tell
            gone = [id for id in ids if self._now.get(id, "") is not None]
            self._now.update((id, None) for id in gone)
        self._tell(gone, "deleted from the index")

    def written(self, documents: Sequence[Document], before: Sequence[Document] | None) -> None:
        """Note that these documents, with their ids, are in the index now.

        `before`: the documents under these ids until then; None where the index cannot tell.
        """
        old = None if before is None else {document.id: document.page_content for document in before}
        new = {d.id: d.page_content for d in documents if d.id is not None}
        changed = {id: text for id, text in new.items() if old is None or old.get(id, text) != text}
        with self._lock:
            self._now.update({id: text for id, text in new.items() if id in changed or id in self._now})
        self._tell(changed, "replaced in the index")

    def restored(self, ids: Iterable[str]) -> None:
        """Note that these documents are back with the text that they had: `index()` makes ids of the text."""
        with self._lock:
            for id in ids:
                if self._now.get(id, "") is None:
                    del self._now[id]

    def stale(self, id: str, text: str) -> bool:
        """Return whether a document that was read as `text`, or as part of it, has changed in the index."""
        with self._lock:
            now = self._now.get(id, text)
        return now is None or now not in text

    def _tell(self, ids: Collection[str], reason: str) -> None:
        stale = Reason(category=Category.STALE, text=reason)
        for model in self._models if ids else ():
            model.retract(*ids, scope="all", reason=stale, missing="ignore", wait=False)
