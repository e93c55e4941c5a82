"""Retracting from a session, and taking a retraction back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from kv_memory.audit import Outcome
from kv_memory.branch import Branch
from kv_memory.edits import Edit, selections
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.errors import RefusedError, UnknownTargetError
from kv_memory.ledger import Ledger
from kv_memory.policy.authority import OWNER, claims
from kv_memory.policy.config import Cascade
from kv_memory.policy.reasons import Reason
from kv_memory.report import RetractionReport
from kv_memory.resolve import Meaning
from kv_memory.retraction import (
    Carrying,
    answers_after,
    erase,
    forget_edits,
    named_spans,
    never_read,
    span_ids,
    status_of,
)
from kv_memory.session_state import SessionState
from kv_memory.spans import Target, target_name

Undone = Literal["restored", "to be read again"]


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

        Raises UnknownTargetError, AmbiguousTargetError, TargetError, RefusedError (`by` may not) or
        UnsupportedOperationError (the engine lacks what the eraser needs) before anything is changed.
        """
        if not targets:
            raise UnknownTargetError("Nothing to retract was named; give a span, tool call, message or document id.")
        with self._engine.lock:
            started = time.perf_counter()
            policy = self._memory.policy
            handling = policy.handling(reason)
            cascade = cascade or handling.cascade
            default = None if handling.exact else self._memory.eraser
            wanted = default if eraser is None else get_eraser(eraser)
            if wanted is not None:
                wanted.check(self._engine)
            meanings = self._resolve(targets, self._given(messages))
            edits = list(dict.fromkeys(edit for meaning in meanings for edit in meaning.edits))
            named = span_ids(meanings)
            self._check_authority(by, meanings, targets, reason)
            derived = answers_after(meanings)
            keep = policy.keep_undo if keep_undo is None else keep_undo
            with self._recorded(targets, edits, named_spans(named), by, str(reason), log=not dry_run) as attempt:
                work = Carrying(wanted, reason, dry_run, score=cascade is not None, keep=keep)
                if not dry_run:
                    self._remember(edits)
                work.carry_out(self.branches, edits)
                if not dry_run:
                    never_read(meanings, [branch.ledger for branch in self.branches])
                if cascade in ("retract", "regenerate"):
                    more, also = self._depended(work, edits)
                    named += also
                    if more and self._audit is not None:
                        self._audit.also(self.id, attempt.id, more, by=by, reason=f"cascade: {cascade}")
                    self._remember(more)
                    work.carry_out(self.branches, more)
                    edits += more
                late = partial(self._erase_queued, edits, wanted, reason, attempt.id)
                self._queued += [(branch, partial(late, branch)) for branch in work.waiting]
                spans = named_spans(named)
                report = RetractionReport(
                    id=attempt.id,
                    session=self.id,
                    targets=tuple(target_name(target) for target in targets),
                    reason=str(reason),
                    eraser=", ".join(work.used) or (wanted.name if wanted else "default"),
                    status="planned" if dry_run else "queued" if work.waiting else status_of(spans),
                    spans=spans,
                    edits=tuple(edits),
                    tokens_erased=work.erased,
                    tokens_recomputed=work.recomputed,
                    tokens_reused=work.reused,
                    seconds=time.perf_counter() - started,
                    dependences=tuple(work.found),
                    derived=derived,
                )
                attempt.outcome = Outcome(report.status, report.eraser, work.erased, work.recomputed, report.seconds)
                if dry_run:
                    return report
                self.reports.append(report)
                self._kept[report.id] = [kept for kept in work.kept if kept.usable]
            self._settle(handling.heal)
            return self.report(report.id)

    def _check_authority(
        self, by: str, meanings: Sequence[Meaning], targets: Sequence[Target], reason: Reason | str
    ) -> None:
        wanted = [claim for meaning in meanings for claim in claims(meaning.ledger, meaning.edits)]
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

    def _depended(self, work: Carrying, edits: Sequence[Edit]) -> tuple[list[Edit], list[tuple[Ledger, set[str]]]]:
        """The edits of the turns that depended on what was erased, and their spans by conversation."""
        meanings = self._resolve([found.span_id for found in work.found if found.depends], None)
        return [edit for meaning in meanings for edit in meaning.edits if edit not in edits], span_ids(meanings)

    def _erase_queued(
        self, edits: Sequence[Edit], eraser: Eraser | None, reason: Reason | str, retraction: str, branch: Branch
    ) -> None:
        """What had to wait for an answer's end."""
        recomputed, name, _ = erase(branch, selections(branch.ledger, edits), eraser, reason)
        if self._audit is not None:
            status = "exact" if branch.ledger.approximate_from is None else "approximate"
            self._audit.outcome(self.id, retraction, Outcome(status, name, tokens_recomputed=recomputed))

    def undo(self, report: RetractionReport) -> Undone:
        """Take a retraction back: the next call reads again, from the first erased part on, what its history holds.

        With `keep_undo` the erased cells are put back, bit-identical, as long as nothing has moved or healed since;
        what was read meanwhile never saw them and stays as it is. "restored" says that this was done in all branches,
        "to be read again" that it was not.

        The text itself is not kept here: a history in which tombstones stand needs the messages back. What another
        retraction named too stays retracted.
        """
        with self._engine.lock:
            if self._audit is not None:
                self._audit.undone(self.id, report.id, by=OWNER)
                self._sealed = self._audit.retracted(self.id)
            kept = self._kept.pop(report.id, [])
            self.reports = [other for other in self.reports if other.id != report.id]
            still = {edit for other in self.reports for edit in other.edits}
            undone = [edit for edit in report.edits if edit not in still]
            self._edits = [edit for edit in self._edits if edit not in undone]
            restored = set()
            for rows in reversed(kept):
                if rows.usable and not still & set(report.edits):
                    rows.put_back()
                    restored.add(rows.branch)
            for branch in self.branches:
                if branch.busy:
                    self._queued.append((branch, partial(forget_edits, branch, undone)))
                elif branch not in restored:
                    forget_edits(branch, undone)
            concerned = {branch for branch in self.branches if selections(branch.ledger, undone)}
            return "restored" if restored and concerned <= restored else "to be read again"
