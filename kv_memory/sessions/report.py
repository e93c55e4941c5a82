"""What a retraction did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.redactions import Redaction, tombstones
from kv_memory.conversation.spans import Span
from kv_memory.sessions.dependence import Dependence


class RetractionStatus(StrEnum):
    """What has become of a retraction."""

    EXACT = "exact"
    """The cache equals that of a conversation that never held the text."""
    APPROXIMATE = "approximate"
    """The text is gone; the cells after it may still carry some of its influence, until they are healed."""
    QUEUED = "queued"
    """An answer is being generated; it is applied when that ends, before the next prefill."""
    PLANNED = "planned"
    """A dry run: nothing was changed."""
    NOOP = "noop"
    """Nothing of it was there to be erased."""


class UndoStatus(StrEnum):
    """What has become of an undo."""

    RESTORED = "restored"
    """The erased cells are back, bit-identical, in all branches."""
    PENDING_REREAD = "pending_reread"
    """The next call prefills again, from the first erased part on, what its history holds."""
    NOOP = "noop"
    """Nothing of it was retracted any more."""


class RetractionReport(BaseModel):
    """The record of one retraction; never holds retracted text."""

    model_config = ConfigDict(frozen=True)

    id: str
    session: str
    targets: tuple[str, ...]
    reason: str
    eraser: str
    status: RetractionStatus
    spans: tuple[Span, ...]
    """What was named, as it stands afterwards."""
    redactions: tuple[Redaction, ...]
    tokens_erased: int
    tokens_recomputed: int
    tokens_reused: int
    """Cells that were kept as they were."""
    seconds: float
    seconds_scoring: float = 0.0
    """Of these, what it took to score later turns; 0 without a `cascade`."""
    explanation: str = ""
    """Why this eraser and none of the others, a line for each: see `Session.explain`."""
    residual: float | None = None
    """Share of the span's influence that this eraser leaves at such lengths, as the calibration measured it; 0 of an
    exact one, None where it was not measured."""
    healed: bool = False
    """It was approximate and has been made exact since."""
    dependences: tuple[Dependence, ...] = ()
    """With a `cascade`: how much what the assistant wrote afterwards hangs on what was erased, most first."""
    derived: tuple[str, ...] = ()
    """Ids of the answers after what was named: they were written with it in view, and may repeat it."""

    def tombstones(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages with what was retracted cut out of them, ids and order as they were.

        Give these to the session from now on, or store them: the session takes them for the same conversation.
        """
        return tombstones(messages, self.redactions)
