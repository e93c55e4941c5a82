"""The redactions in force in one session, and the audit log that keeps them beyond the process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from kv_memory.audit import Attempt, AuditError, AuditLog, Outcome
from kv_memory.audit.queries import Logged
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.spans import Span, Target
from kv_memory.conversation.targets import ResolvedTarget
from kv_memory.errors import RefusedError
from kv_memory.policy.authority import OWNER
from kv_memory.policy.reasons import Category, Reason

_LOG = logging.getLogger(__name__)

STRICT = frozenset({Category.SECURITY, Category.PRIVACY})
"""Categories whose text may not be left in any form: what is found of it later is erased exactly."""


class Records:
    """The redactions of one session, each owned by the retractions that asked for it. Callers hold the engine's lock.

    What may be visible of a message is the message as it was first read, less the union of the redactions in force.
    """

    def __init__(self, session: str, originals: Originals, audit: AuditLog | None) -> None:
        self._session = session
        self._originals = originals
        self._audit = audit
        self._logs = audit
        """The log, unless nothing is to be written down."""
        self._reasons: dict[tuple[str, Redaction], Reason] = {}
        """Reasons that were given in this process, by retraction."""
        self._unlogged: dict[tuple[str, Redaction], None] = {}
        """Redactions in force that the log of this session does not have."""
        self._undone: dict[Redaction, None] = {}
        """Redactions that were undone in this process, here or in the session that this is a fork of."""
        self._logged: dict[tuple[str, Redaction], None] = {}
        """Redactions in force by the log, asked for in this process or another."""
        self._read: list[Logged] = []
        """The log's redactions when it was read last: sessions ask before each answer, and it seldom changes."""
        self.known: set[str] = set()
        """Digests of the messages of which something was ever retracted here."""
        self.refresh()

    @property
    def redactions(self) -> list[Redaction]:
        """Return those in force, each once, in the order in which they came."""
        return list(dict.fromkeys(redaction for _, redaction in (*self._logged, *self._unlogged)))

    @property
    def former(self) -> list[Redaction]:
        """Return those that were in force once: histories may hold their tombstones, which stay known as versions."""
        undone, in_force = [*(known.redaction for known in self._read), *self._undone], set(self.redactions)
        return [redaction for redaction in dict.fromkeys(undone) if redaction not in in_force]

    def refresh(self) -> None:
        """Read from the log what other processes have retracted or undone."""
        if self._audit is None:
            return
        logged = self._audit.logged(self._session)
        if logged == self._read:
            return
        self._read = logged
        self._originals.learn(known.redaction for known in logged)
        self.known |= {known.redaction.digest for known in logged}
        self._logged = {(known.retraction, known.redaction): None for known in logged if known.in_force}

    def reason(self, redaction: Redaction) -> Reason:
        """Return why a redaction is in force: the strictest of the reasons that were given for it.

        That of another process is taken for the strictest: its policy is not known here.
        """
        owners = [owner for owner in (*self._logged, *self._unlogged) if owner[1] == redaction]
        reasons = [self._reasons.get(owner, Reason.of(Category.SECURITY)) for owner in owners]
        return next((reason for reason in reasons if reason.category in STRICT), reasons[-1])

    def holds(self, retraction: str) -> bool:
        """Return whether a redaction of this retraction is in force."""
        return any(owner == retraction for owner, _ in (*self._logged, *self._unlogged))

    def described(self, resolved: Iterable[ResolvedTarget]) -> list[Redaction]:
        """Return the redactions of these targets as they are remembered: with what tells versions of their messages."""
        made: dict[Redaction, tuple[Message, Cuts]] = {}
        for target in resolved:
            fewest_cuts_last = sorted(target.ledger.entries, key=lambda entry: -len(entry.cuts.chars))
            entries = {entry.digest: entry for entry in fewest_cuts_last}
            for redaction in target.redactions:
                entry = entries[redaction.digest]
                made.setdefault(redaction, (entry.message, entry.cuts))
        beside = [*self.redactions, *(known.redaction for known in self._read)]
        return self._originals.fingerprinted([(redaction, *message) for redaction, message in made.items()], beside)

    def remember(self, retraction: str, redactions: Iterable[Redaction], reason: Reason | str) -> None:
        """Put redactions in force for a retraction."""
        made = dict.fromkeys((retraction, redaction) for redaction in redactions)
        self._originals.learn(redaction for _, redaction in made)
        self.known |= {redaction.digest for _, redaction in made}
        self._reasons |= dict.fromkeys(made, Reason.of(reason))
        if self._logs is None:
            self._unlogged |= made
        else:
            self._logged |= made

    def inherit(self, other: Records) -> None:
        """Put in force exactly what is in force in another session, and know what was."""
        other.refresh()  # another process may have retracted there since
        self._unlogged = {**other._logged, **other._unlogged}
        self._undone = dict.fromkeys(other.former)
        self._reasons = dict(other._reasons)
        self.known |= other.known

    def stop_logging(self) -> None:
        """Stop logging for good."""
        self._logs = None

    def log_inherited(self, origin: str) -> None:
        """Log that this session begins with what is, and what was, retracted in the session `origin`."""
        inherited = list(dict.fromkeys(redaction for _, redaction in self._unlogged))
        if self._logs is not None and (inherited or self._undone):
            retraction = self._logs.inherited(self._session, inherited, [*self._undone], origin=origin, by=OWNER)
            self._reasons |= {(retraction, redaction): self.reason(redaction) for redaction in inherited}

    def withdraw(
        self,
        retraction: str,
        redactions: Sequence[Redaction] | None = None,
        *,
        by: str = "",
        reason: str = "",
        status: str | None = None,
    ) -> None:
        """Take a retraction, or only these redactions of it, out of force; the log is written first."""
        if self._logs is not None:
            self._logs.undone(self._session, retraction, redactions=redactions, by=by, reason=reason, status=status)
        for held in (self._logged, self._unlogged):
            for owner in [owner for owner in held if owner[0] == retraction]:
                if redactions is None or owner[1] in redactions:
                    del held[owner]
                    self._undone[owner[1]] = None

    def corrected(self, messages: Iterable[Message]) -> tuple[str, ...]:
        """Return the ids of those of these messages that are corrections: under the id another text is retracted."""
        redactions = self.redactions
        digests = {redaction.digest for redaction in redactions}
        ids = {(r.role, name) for r in redactions for name in (r.message_id, r.tool_call_id) if name is not None}
        return tuple(
            name
            for message in messages
            if message.missing.cut(message.content)  # nothing is left of what an editor cleared, whichever text it was
            and not message.placeholder
            and message.digest() not in digests
            for name in (message.tool_call_id or message.id,)
            if name is not None and (message.role, name) in ids
        )

    def logged(
        self,
        targets: Sequence[Target],
        redactions: Sequence[Redaction],
        spans: Sequence[Span] = (),
        by: str = OWNER,
        reason: str = "",
    ) -> AbstractContextManager[Attempt]:
        """Return a context for the work of a retraction: its intent is logged before and its outcome after."""
        if self._logs is None:
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
