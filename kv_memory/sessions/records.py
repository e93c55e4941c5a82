"""The redactions in force in one session, and the audit log that keeps them beyond the process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from kv_memory.audit import Attempt, AuditError, AuditLog, Outcome, SealedRedaction
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.spans import Span, Target
from kv_memory.errors import RefusedError
from kv_memory.policy.authority import OWNER
from kv_memory.policy.reasons import Category, Reason

_LOG = logging.getLogger(__name__)

STRICT = frozenset({Category.SECURITY, Category.PRIVACY})
"""Categories whose text may not be left in any form: what is found of it later is erased exactly."""


class Records:
    """The redactions of one session. Callers hold the engine's lock."""

    def __init__(self, session: str, audit: AuditLog | None) -> None:
        self._session = session
        self._audit = audit
        self._logs = audit
        """The log, unless nothing is to be written down."""
        self._reasons: dict[Redaction, Reason] = {}
        self._sealed = audit.retracted(session) if audit else []
        """Redactions in the audit log, by this process or another."""
        self._inherited: list[SealedRedaction] = []
        """Redactions in the log of the session that this one is a copy of."""

    @property
    def redactions(self) -> list[Redaction]:
        """Return those in force in conversations that this process has seen, in the order in which they came."""
        return list(self._reasons)

    def reason(self, redaction: Redaction) -> Reason:
        """Return why a redaction is in force: the strictest of the reasons that were given for it."""
        return self._reasons[redaction]

    def holds_any(self, redactions: Sequence[Redaction]) -> bool:
        """Return whether any of these may be in force; what another process retracted is known by its hash alone."""
        return bool(self._sealed or self._inherited) or any(redaction in self._reasons for redaction in redactions)

    def remember(self, redactions: Iterable[Redaction], reason: Reason | str) -> None:
        """Put redactions in force. One that is in force already keeps a stricter reason."""
        given = Reason.of(reason)
        for redaction in redactions:
            known = self._reasons.get(redaction)
            self._reasons[redaction] = given if known is None or known.category not in STRICT else known

    def recall(self, digests: Iterable[str]) -> None:
        """Put in force what another process retracted of the messages with these digests, with the strictest reason:
        the log does not tell a session why."""
        if self._audit is None:
            return
        self._sealed = self._audit.retracted(self._session)
        sealed = list(dict.fromkeys([*self._inherited, *self._sealed]))
        if sealed:
            known = self._reasons
            found = self._audit.unseal(sealed, digests)
            self.remember((redaction for redaction in found if redaction not in known), Category.SECURITY)

    def inherit(self, other: Records) -> None:
        """Put in force exactly what is in force in another session."""
        self._reasons = dict(other._reasons)
        self._inherited = list(dict.fromkeys([*other._inherited, *other._sealed]))

    def stop_logging(self) -> None:
        """Stop logging for good."""
        self._logs = None

    def log_inherited(self, origin: str) -> None:
        """Log that this session begins with what is retracted in the session `origin`."""
        inherited: list[Redaction | SealedRedaction] = [*self._reasons, *self._inherited]
        with self.logged((), inherited, reason=f"forked from {origin}", log=bool(inherited)) as attempt:
            attempt.outcome = Outcome("inherited")
        self._inherited = []  # they are in this session's own log now

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
        if self._logs is not None:
            withdrawn = redactions if part else None
            self._logs.undone(self._session, report_id, redactions=withdrawn, by=by, reason=reason, status=status)
            self._sealed = self._logs.retracted(self._session)
        for redaction in redactions:
            self._reasons.pop(redaction, None)

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
        if self._logs is None or not log:
            return nullcontext(Attempt())
        return self._logs.retraction(
            session=self._session, targets=targets, redactions=redactions, spans=spans, by=by, reason=reason
        )

    def log_more(self, retraction: str, redactions: Sequence[Redaction], *, by: str, reason: str) -> None:
        """Log that a retraction under way covers more redactions."""
        if self._logs is not None:
            self._logs.also(self._session, retraction, redactions, by=by, reason=reason)

    def log_outcome(self, retraction: str, outcome: Outcome) -> None:
        """Log the outcome of a retraction that had to wait."""
        if self._logs is not None:
            self._logs.outcome(self._session, retraction, outcome)

    def log_refusal(self, error: RefusedError, targets: Sequence[Target], *, by: str, reason: str) -> None:
        """Log that somebody without the authority asked for a retraction."""
        if self._logs is not None:
            self._logs.refusal(
                session=self._session,
                targets=targets,
                spans=error.refusals,
                by=by,
                reason=reason,
                error="RefusedError",
            )

    def log_healed(self, retraction: str) -> None:
        """Log that a retraction is exact now; a failure to log is reported and changes nothing about that."""
        if self._logs is None:
            return
        try:
            self._logs.healed(self._session, retraction)
        except AuditError:
            _LOG.exception("Retraction %s is healed, but that was not written down.", retraction)
