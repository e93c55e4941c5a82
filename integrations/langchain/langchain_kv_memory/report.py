"""The report of a retraction, over all sessions that it reached."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict, Field

from kv_memory import RetractionReport as SessionReport
from kv_memory import RetractionStatus, Span
from langchain_kv_memory.tombstones import tombstones

_WEIGHT = (
    RetractionStatus.NOOP,
    RetractionStatus.EXACT,
    RetractionStatus.PLANNED,
    RetractionStatus.APPROXIMATE,
    RetractionStatus.QUEUED,
)


class RetractionReport(BaseModel):
    """The record of one retraction; never holds retracted text."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    reason: str = ""
    parts: tuple[SessionReport, ...] = ()
    """Reports of what was done, by session."""
    queued: tuple[str, ...] = ()
    """Sessions in which it will be done before their next answer (`wait=False`)."""
    missing: tuple[str, ...] = ()
    """Targets that no session in the scope holds."""

    @property
    def status(self) -> RetractionStatus:
        """Return the status of the part that is furthest from exact; "queued" where it is not done yet."""
        if self.queued:
            return RetractionStatus.QUEUED
        return max((part.status for part in self.parts), key=_WEIGHT.index, default=RetractionStatus.NOOP)

    @property
    def exact(self) -> bool:
        """Return whether the cache is what it would be had the model never read the text."""
        return self.status in (RetractionStatus.EXACT, RetractionStatus.NOOP)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Return the spans that were named, as they are afterwards, each with its status."""
        return tuple(span for part in self.parts for span in part.spans)

    @property
    def derived(self) -> tuple[str, ...]:
        """Return ids of later answers, written with the text in view; retract those that repeat it."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.derived))

    @property
    def tokens_erased(self) -> int:
        """Return the number of cells that were erased."""
        return sum(part.tokens_erased for part in self.parts)

    @property
    def tokens_recomputed(self) -> int:
        """Return the number of cells that were recomputed."""
        return sum(part.tokens_recomputed for part in self.parts)

    @property
    def tokens_reused(self) -> int:
        """Return the number of cells that were kept as they were."""
        return sum(part.tokens_reused for part in self.parts)

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return sum(part.seconds for part in self.parts)

    def tombstones(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return replacements, under the same ids, of messages that hold retracted text: for a graph's state.

        `messages` is the whole conversation, in order. The session takes the changed conversation for the same one.
        """
        return list(self._changed(messages).values())

    def applied_to(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return all the messages, with those replacements in their places."""
        changed = self._changed(messages)
        return [changed.get(i, message) for i, message in enumerate(messages)]

    def _changed(self, messages: Sequence[BaseMessage]) -> dict[int, BaseMessage]:
        redactions = dict.fromkeys(redaction for part in self.parts for redaction in part.redactions)
        return tombstones(messages, list(redactions), self.id)
