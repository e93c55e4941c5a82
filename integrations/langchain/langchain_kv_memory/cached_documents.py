"""The documents that a session has read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kv_memory import Session


@dataclass(frozen=True)
class CachedDocument:
    """One place of a document in a session."""

    id: str
    span_id: str
    text: str
    """Text that was read there; what was erased of it is NUL characters."""


def cached_documents(session: Session, ids: Collection[str]) -> Iterator[CachedDocument]:
    """Yield the places of these documents in all branches, but for those that are erased already.

    Callers hold the engine's lock.
    """
    seen: set[str] = set()
    for branch in session.branches:
        for entry in branch.ledger.entries:
            for number, document in enumerate(entry.message.documents):
                span_id = f"{entry.span_id}.doc{number}"
                text = entry.message.content[document.start : document.end]
                if document.id in ids and span_id not in seen and text.strip("\0"):
                    seen.add(span_id)
                    yield CachedDocument(document.id, span_id, text)
