"""Reports: what a retraction did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.spans import Span
from kv_memory.conversation.tombstones import tombstones
from kv_memory.sessions.dependence import Dependence


class RetractionStatus(StrEnum):
    """Whether a retraction is done, and how exactly."""

    EXACT = "exact"
    """The cache equals that of a conversation that never held the text."""
    APPROXIMATE = "approximate"
    """The text is gone; the cells after it may still carry some of its influence, until they are healed."""
    QUEUED = "queued"
    """An answer is being generated; the retraction is made when that ends, before the next prefill."""
    PLANNED = "planned"
    """A dry run: nothing was changed."""
    NOOP = "noop"
    """There was nothing to erase, and there is nothing to leave out later: the message was empty when it was read."""


class UndoStatus(StrEnum):
    """Whether an undo is done, and how."""

    RESTORED = "restored"
    """The erased cells are back, bit-identical, in all branches."""
    PENDING_REREAD = "pending_reread"
    """The next call prefills the history again, from the first erased part on."""
    NOOP = "noop"
    """Nothing of the retraction was in force any more."""


class RetractionReport(BaseModel):
    """The record of one retraction; it never holds retracted text."""

    model_config = ConfigDict(frozen=True)

    id: str
    session: str
    targets: tuple[str, ...]
    reason: str
    eraser: str
    status: RetractionStatus
    spans: tuple[Span, ...]
    """Spans that were named, with their status afterwards."""
    redactions: tuple[Redaction, ...]
    tokens_erased: int
    tokens_recomputed: int
    """Tokens that the model ran again; with recurrent layers also those between the last checkpoint and the span."""
    tokens_reused: int
    """Cells that were kept as they were."""
    seconds: float
    seconds_scoring: float = 0.0
    """Seconds, of `seconds`, spent on scoring later turns; 0 without a `cascade`."""
    explanation: str = ""
    """Reasons for this eraser and against the others, one per line: see `Session.explain`."""
    residual: float | None = None
    """Share of the span's influence that the eraser leaves at such lengths, by the calibration: 0 for an exact eraser,
    None where it was not measured."""
    healed: bool = False
    """Whether an approximate erasure has been made exact since."""
    dependences: tuple[Dependence, ...] = ()
    """Dependence of later assistant turns on what was erased, highest first; scored only with a `cascade`."""
    derived: tuple[str, ...] = ()
    """Ids of the answers after what was named: they were written with it in view, and may repeat it."""

    def tombstones(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages without what was retracted, ids and order as they were.

        The messages may be tombstones of other retractions. Give the result to the session from now on, or store it:
        the session treats it as the same conversation. Raises KVMemoryError for a report of another process whose
        memory had no audit log.
        """
        return tombstones(messages, self.redactions)
