"""A retraction under way, as the audit log sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4


@dataclass
class Outcome:
    """How a retraction ended."""

    status: str
    eraser: str | None = None
    tokens_erased: int | None = None
    tokens_recomputed: int | None = None
    seconds: float | None = None
    """By default the time between intent and outcome."""
    fidelity: float | None = None
    """Residual influence that was measured of the eraser, 0 of an exact one; None where it was not."""
    error: str | None = None
    """Class of the error that it failed with."""


@dataclass
class Attempt:
    """A retraction under way: made by `AuditLog.retraction`, or by itself where there is no log."""

    id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Of the retraction; its report has the same."""
    outcome: Outcome = field(default_factory=lambda: Outcome("unknown"))
    """To be set by who does the work."""
