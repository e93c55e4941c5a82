"""The redactions in force in one session, and the audit log that keeps them beyond the process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from kv_memory.audit import Attempt, AuditError, AuditLog, Outcome, SealedRedaction
from kv_memory.conversation.messages import Message
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.spans import Span, Target
from kv_memory.errors import RefusedError
from kv_memory.policy.authority import OWNER

_LOG = logging.getLogger(__name__)


class Records:
    """The redactions of one session. Callers hold the engine's lock."""

    def __init__(self, session: str, audit: AuditLog | None) -> None:
        self._session = session
        self._audit = audit
        self.redactions: list[Redaction] = []
        """Redactions in force in conversations that this process has seen."""
        self._sealed = audit.retracted(session) if audit else []
        """Redactions that the audit log holds, by this process or another, known by a hash alone."""

    def holds_any(self, redactions: Sequence[Redaction]) -> bool:
        """Return whether any of these may be in force; what another process retracted is known by its hash alone."""
        return bool(self._sealed) or any(redaction in self.redactions for redaction in redactions)

    def remember(self, redactions: Sequence[Redaction]) -> None:
        """Put redactions in force."""
        self.redactions += [redaction for redaction in redactions if redaction not in self.redactions]

    def recall(self, messages: Sequence[Message]) -> None:
        """Put in force what another process retracted of these messages."""
        if self._sealed and self._audit is not None:
            self.remember(self._audit.unseal(self._sealed, messages))

    def inherit(self, other: Records) -> None:
        """Put in force exactly what is in force in another session."""
        self.redactions, self._sealed = list(other.redactions), list(other._sealed)

    def stop_logging(self) -> None:
        """Stop logging for good."""
        self._audit = None

    def log_inherited(self, origin: str) -> None:
        """Log that this session begins with what is retracted in the session `origin`."""
        inherited: list[Redaction | SealedRedaction] = [*self.redactions, *self._sealed]
        with self.logged((), inherited, reason=f"forked from {origin}", log=bool(inherited)) as attempt:
            attempt.outcome = Outcome("inherited")

    def withdraw(
        self,
        report_id: str,
        redactions: Sequence[Redaction],
        *,
        part: bool = False,
        by: str = "",
        reason: str = "",
        status: str | None = None,
    ) -> None:
        """Take redactions of a retraction out of force; the log is written first. `part`: others of it stay."""
        if self._audit is not None:
            withdrawn = redactions if part else None
            self._audit.undone(self._session, report_id, redactions=withdrawn, by=by, reason=reason, status=status)
            self._sealed = self._audit.retracted(self._session)
        self.redactions = [redaction for redaction in self.redactions if redaction not in redactions]

    def logged(
        self,
        targets: Sequence[Target],
        redactions: Sequence[Redaction | SealedRedaction],
        spans: Sequence[Span] = (),
        by: str = OWNER,
        reason: str = "",
        *,
        log: bool = True,
    ) -> AbstractContextManager[Attempt]:
        """Return a context for the work of a retraction: its intent is logged before and its outcome after."""
        if self._audit is None or not log:
            return nullcontext(Attempt())
        return self._audit.retraction(
            session=self._session, targets=targets, redactions=redactions, spans=spans, by=by, reason=reason
        )

    def log_more(self, retraction: str, redactions: Sequence[Redaction], *, by: str, reason: str) -> None:
        """Log that a retraction under way covers more redactions."""
        if self._audit is not None:
            self._audit.also(self._session, retraction, redactions, by=by, reason=reason)

    def log_outcome(self, retraction: str, outcome: Outcome) -> None:
        """Log the outcome of a retraction that had to wait."""
        if self._audit is not None:
            self._audit.outcome(self._session, retraction, outcome)

    def log_refusal(self, error: RefusedError, targets: Sequence[Target], *, by: str, reason: str) -> None:
        """Log that somebody without the authority asked for a retraction."""
        if self._audit is not None:
            self._audit.refusal(
                session=self._session,
                targets=targets,
                spans=error.refusals,
                by=by,
                reason=reason,
                error="RefusedError",
            )

    def log_healed(self, retraction: str) -> None:
        """Log that a retraction is exact now; a failure to log is reported and changes nothing about that."""
        if self._audit is None:
            return
        try:
            self._audit.healed(self._session, retraction)
        except AuditError:
            _LOG.exception("Retraction %s is healed, but that was not written down.", retraction)
