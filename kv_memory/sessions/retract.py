"""Retracting from a session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from kv_memory.audit import Outcome
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.conversation.resolve import ResolvedTarget
from kv_memory.conversation.spans import Target, target_name
from kv_memory.erasers.base import Eraser
from kv_memory.errors import PolicyError, RefusedError, UnknownTargetError
from kv_memory.policy.authority import OWNER, claims
from kv_memory.policy.config import Cascade
from kv_memory.policy.reasons import Reason
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.report import RetractionReport, RetractionStatus
from kv_memory.sessions.retraction_run import (
    RetractionRun,
    answers_after,
    named_spans,
    never_read,
    span_ids,
    status_of,
)
from kv_memory.sessions.state import SessionState


class RetractingSession(SessionState):
    """A session that can be told to forget."""

    def retract(
        self,
        *targets: Target,
        reason: Reason | str = "",
        by: str = OWNER,
        eraser: str | Eraser | None = None,
        messages: Any = None,
        cascade: Cascade | None = None,
        keep_undo: bool | None = None,
        dry_run: bool = False,
    ) -> RetractionReport:
        """Erase what these targets name from the cache, in all branches, now and for good.

        A target is a span id, tool call id (its result), message id, document id, or a CharRange. The same message in
        a later call stays erased, though the caller's history still holds it. Naming what is already erased changes
        nothing, unless the eraser is exact and the earlier one was not.

        `reason`: a text, or a category that the policy goes by: "security", "privacy", "stale", "error", alone or
        before a colon and a text. Security is exact, unless the policy or `eraser` says otherwise. Without an `eraser`,
        here or in the memory, `policy.choose` chooses. `by`: who asks: "owner", "user", "tool", "policy" or
        "session:<id>"; the policy's authority says what each may retract.

        `messages`: the conversation that is meant, where the session may not have read all of it yet; what it has not
        read it will not read. `cascade`: score what the assistant wrote afterwards and say, or retract too, what
        depended on the span; it costs two forward passes of those turns. `keep_undo`: keep the rows that `drop` or
        `steer` replaces, text and all, in memory for ten minutes, so that `undo` puts them back as they were; until
        then it is not healed in idle time. Both are by default as the policy says. `dry_run` changes nothing and
        reports what would be erased.

        Raises UnknownTargetError, AmbiguousTargetError, TargetError, RefusedError (`by` may not), PolicyError (no such
        cascade) or UnsupportedOperationError (the engine lacks what the eraser needs) before anything is changed.
        """
        if not targets:
            raise UnknownTargetError("Nothing to retract was named; give a span, tool call, message or document id.")
        if cascade is not None and cascade not in get_args(Cascade):
            raise PolicyError(f"There is no cascade {cascade!r}; give one of {', '.join(get_args(Cascade))}, or None.")
        with self._engine.lock:
            started = time.perf_counter()
            policy = self._memory.policy
            handling = policy.handling(reason)
            cascade = cascade or handling.cascade
            default = None if handling.exact else self._memory.eraser
            asked = default if eraser is None else eraser
            wanted = None if asked is None else self._memory.load_eraser(asked)
            resolved = self._resolve(targets, self._given(messages))
            redactions = list(dict.fromkeys(redaction for target in resolved for redaction in target.redactions))
            named = span_ids(resolved)
            self._check_authority(by, resolved, targets, reason)
            derived = answers_after(resolved)
            keep = policy.keep_undo if keep_undo is None else keep_undo
            with self._recorded(targets, redactions, named_spans(named), by, str(reason), log=not dry_run) as attempt:
                work = RetractionRun(wanted, reason, dry_run, score=cascade is not None, keep=keep)
                if not dry_run:
                    self._remember(redactions)
                work.carry_out(self.branches, redactions)
                if not dry_run:
                    never_read(resolved, [branch.ledger for branch in self.branches])
                if cascade in ("retract", "regenerate"):
                    more, also = self._depended(work, redactions, by, reason)
                    named += also
                    if more and self._audit is not None:
                        self._audit.also(self.id, attempt.id, more, by=by, reason=f"cascade: {cascade}")
                    self._remember(more)
                    work.carry_out(self.branches, more)
                    redactions += more
                late = partial(self._erase_queued, redactions, wanted, reason, attempt.id)
                self._queued += [(branch, partial(late, branch)) for branch in dict.fromkeys(work.waiting)]
                spans = named_spans(named)
                report = RetractionReport(
                    id=attempt.id,
                    session=self.id,
                    targets=tuple(target_name(target) for target in targets),
                    reason=str(reason),
                    eraser=", ".join(work.used) or (wanted.name if wanted else "default"),
                    status=RetractionStatus.PLANNED
                    if dry_run
                    else RetractionStatus.QUEUED
                    if work.waiting
                    else status_of(spans),
                    spans=spans,
                    redactions=tuple(redactions),
                    tokens_erased=work.erased,
                    tokens_recomputed=work.recomputed,
                    tokens_reused=work.reused,
                    seconds=time.perf_counter() - started,
                    seconds_scoring=work.scoring,
                    explanation=work.explain(),
                    residual=work.residual,
                    dependences=tuple(work.found),
                    derived=derived,
                )
                attempt.outcome = Outcome(
                    report.status, report.eraser, work.erased, work.recomputed, report.seconds, work.residual
                )
                if dry_run:
                    return report
                self.reports.append(report)
                self._kept.put(report.id, work.kept)
            self._settle(handling.heal)
            return self.report(report.id)

    def explain(
        self, *targets: Target, reason: Reason | str = "", eraser: str | Eraser | None = None, messages: Any = None
    ) -> str:
        """How these targets would be erased and why: a line for the eraser, then one for each that is passed over.

        Changes nothing. Arguments and errors as of `retract`, whose report says the same afterwards (`explanation`).
        """
        return self.retract(*targets, reason=reason, eraser=eraser, messages=messages, dry_run=True).explanation

    def _check_authority(
        self, by: str, resolved: Sequence[ResolvedTarget], targets: Sequence[Target], reason: Reason | str
    ) -> None:
        wanted = [claim for target in resolved for claim in claims(target.ledger, target.redactions)]
        try:
            self._memory.policy.authority.check(by, wanted, session=self.id)
        except RefusedError as error:
            if self._audit is not None:
                self._audit.refusal(
                    session=self.id,
                    targets=targets,
                    spans=error.refusals,
                    by=by,
                    reason=str(reason),
                    error="RefusedError",
                )
            raise

    def _depended(
        self, work: RetractionRun, redactions: Sequence[Redaction], by: str, reason: Reason | str
    ) -> tuple[list[Redaction], list[tuple[Ledger, set[str]]]]:
        """The redactions of the turns that depended on what was erased, and their spans by conversation.

        A cascade is the policy's doing: what neither it nor `by` may retract is refused, and stays.
        """
        resolved = []
        for found in (found for found in work.found if found.depends):
            these = self._resolve([found.span_id], None)
            wanted = [claim for target in these for claim in claims(target.ledger, target.redactions)]
            if self._memory.policy.authority.refusals("policy", wanted):
                try:
                    self._check_authority(by, these, [found.span_id], reason)
                except RefusedError:
                    continue
            resolved += these
        return [
            redaction for target in resolved for redaction in target.redactions if redaction not in redactions
        ], span_ids(resolved)

    def _erase_queued(
        self,
        redactions: Sequence[Redaction],
        eraser: Eraser | None,
        reason: Reason | str,
        retraction: str,
        branch: Branch,
    ) -> None:
        """What had to wait for an answer's end; the report says so once no branch waits any more."""
        work = RetractionRun(eraser, reason)
        started = time.perf_counter()
        work.carry_out([branch], redactions)
        used, seconds = ", ".join(work.used) or "none", time.perf_counter() - started
        exact = branch.ledger.approximate_from is None
        status = RetractionStatus.EXACT if exact else RetractionStatus.APPROXIMATE
        if self._audit is not None:
            outcome = Outcome(status, used, work.erased, work.recomputed, seconds, work.residual)
            self._audit.outcome(self.id, retraction, outcome)
        waits = any(s.intervals() for other in self.branches for s in selections(other.ledger, redactions))
        for place, report in enumerate(self.reports):
            if report.id == retraction and not waits:
                self.reports[place] = report.model_copy(
                    update={
                        "status": RetractionStatus.APPROXIMATE if self._approximate() else RetractionStatus.EXACT,
                        "spans": self._spans_now(report),
                        "eraser": used,
                        "tokens_erased": report.tokens_erased + work.erased,
                        "tokens_recomputed": report.tokens_recomputed + work.recomputed,
                        "seconds": report.seconds + seconds,
                        "explanation": work.explain(),
                        "residual": work.residual,
                    }
                )
