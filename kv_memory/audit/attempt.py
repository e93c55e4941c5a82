"""The record of a retraction while it runs: its id, and the outcome that the log will get."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4


@dataclass
class Outcome:
    """The outcome of one retraction."""

    status: str
    eraser: str | None = None
    tokens_erased: int | None = None
    tokens_recomputed: int | None = None
    seconds: float | None = None
    """Time that the retraction took; by default the time between intent and outcome."""
    fidelity: float | None = None
    """Residual influence that was measured for the eraser: 0 for an exact one, None where it was not measured."""
    error: str | None = None
    """Class name of the exception, if the retraction failed."""


@dataclass
class Attempt:
    """A retraction that is running. `AuditLog.retraction` makes it; without a log the caller makes one itself."""

    id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Id of the retraction, which its report has too."""
    outcome: Outcome = field(default_factory=lambda: Outcome("unknown"))
    """Outcome of the retraction, to be set by the code that erases."""
