"""Retraction from a session: plan, authorise, execute, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from kv_memory.audit import Attempt, Outcome
from kv_memory.conversation.messages import Message
from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.conversation.spans import SpanStatus, Target, target_name
from kv_memory.conversation.targets import ResolvedTarget, resolve
from kv_memory.errors import RefusedError
from kv_memory.policy.authority import claims
from kv_memory.policy.reasons import Reason
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.enforce import enforce, enforce_free
from kv_memory.sessions.plan import Tools
from kv_memory.sessions.records import STRICT
from kv_memory.sessions.reply import FinishReason
from kv_memory.sessions.report import RetractionReport, RetractionStatus
from kv_memory.sessions.retraction_plan import RetractionPlan, named_spans, plan_branches
from kv_memory.sessions.retraction_run import RetractionRun, highest_residual
from kv_memory.sessions.state import SessionState


def dry_run(state: SessionState, plan: RetractionPlan, started: float) -> RetractionReport:
    """Report what a retraction would do; nothing is erased. Raises RefusedError as the retraction would."""
    authorise(state, plan.by, plan.resolved, plan.targets, plan.reason)
    return RetractionReport(
        id=Attempt().id,
        session=state.id,
        targets=tuple(map(target_name, plan.targets)),
        reason=str(plan.reason),
        eraser=", ".join(plan.erasers) or (plan.eraser.name if plan.eraser else "default"),
        status=RetractionStatus.PLANNED,
        spans=named_spans(plan.resolved),
        redactions=plan.redactions,
        tokens_erased=plan.cells,
        tokens_recomputed=0,
        tokens_reused=sum(part.branch.cells for part in plan.branches) - plan.cells,
        seconds=time.perf_counter() - started,
        explanation=plan.explanation,
        residual=highest_residual(plan.choices),
        derived=plan.derived,
    )


def retract(state: SessionState, plan: RetractionPlan, started: float) -> RetractionReport:
    """Carry out a plan and report; `started`: when the call began, by `time.perf_counter`.

    Raises RefusedError before anything is changed.
    """
    authorise(state, plan.by, plan.resolved, plan.targets, plan.reason)
    spans = named_spans(plan.resolved)
    with state.records.logged(plan.targets, plan.redactions, spans, plan.by, str(plan.reason)) as attempt:
        run = _execute(state, plan, attempt.id)
        report = _report(state, plan, run, attempt.id, started)
        attempt.outcome = Outcome(
            report.status, report.eraser, run.erased, run.recomputed, report.seconds, report.residual
        )
        state.reports.append(report)
        state.kept.put(report.id, run.kept)
    state.finish_waiting()  # answers that were interrupted have ended
    state.settle(plan.handling.heal)
    return state.report(report.id)


def leave_out(state: SessionState, messages: Sequence[Message], tools: Tools, targets: Sequence[Target]) -> None:
    """Put in force, before a conversation is prefilled, that these parts of it are not; erase what was read before."""
    unread = state.unread(state.identify(messages), tools)
    found = [resolved for target in targets for resolved in resolve(state.identified(target), [], unread)]
    redactions = state.records.described(found)
    with state.records.logged(targets, redactions) as attempt:
        state.records.remember(attempt.id, redactions, "")
        attempt.outcome = Outcome("never read")
    enforce_free(state)
    for branch in [branch for branch in state.branches if branch.busy]:
        state.when_free(branch, partial(enforce, state, branch))


def authorise(
    state: SessionState,
    by: str,
    resolved: Sequence[ResolvedTarget],
    targets: Sequence[Target],
    reason: Reason | str,
) -> None:
    """Raise RefusedError, and log it, where `by` may not retract what the targets mean."""
    wanted = claims(chosen for target in resolved for chosen in target.selections)
    try:
        state.host.policy.authority.check(by, wanted, session=state.id)
    except RefusedError as error:
        state.records.log_refusal(error, targets, by=by, reason=str(reason))
        raise


def _execute(state: SessionState, plan: RetractionPlan, retraction: str) -> RetractionRun:
    """Erase what is planned and, with a cascade, what depended on it; queue this for branches that are busy."""
    run = RetractionRun(plan.eraser, plan.reason, score=plan.cascade is not None, keep=plan.keep_undo)
    state.records.remember(retraction, plan.redactions, plan.reason)
    if plan.handling.category in STRICT:
        state.kept.drop_of([chosen.entry for part in plan.branches for chosen in part.selections])
    if plan.handling.interrupt:
        for part in plan.branches:
            if part.intervals and part.branch.interrupt is not None:
                part.branch.interrupt(FinishReason.RETRACTED)
    run.carry_out(plan.branches)
    _note_never_read(state, plan.resolved)
    run.redactions += plan.redactions
    if plan.cascade in ("retract", "regenerate"):
        run.dependents = _dependents(state, plan, run)
        more = state.records.described(run.dependents)
        if more:
            state.records.log_more(retraction, more, by=plan.by, reason=f"cascade: {plan.cascade}")
        state.records.remember(retraction, more, plan.reason)
        run.carry_out(plan_branches(state.branches, more, plan.eraser, plan.reason))
        run.redactions += more
    for branch in dict.fromkeys(run.waiting):
        state.when_free(branch, partial(_erase_later, state, plan, run.redactions, retraction, branch))
    return run


def _note_never_read(state: SessionState, resolved: Sequence[ResolvedTarget]) -> None:
    """Mark as erased what is named of a conversation that no branch has read."""
    ledgers = [branch.ledger for branch in state.branches]
    for target in resolved:
        if target.ledger not in ledgers:
            target.ledger.erase(target.selections, (), exact=True)


def _dependents(state: SessionState, plan: RetractionPlan, run: RetractionRun) -> list[ResolvedTarget]:
    """Find the turns that depended on what was erased.

    A cascade is made in the name of the policy. A turn that neither the policy nor `plan.by` may retract is refused,
    and stays.
    """
    dependents: list[ResolvedTarget] = []
    for found in (found for found in run.found if found.depends):
        resolved = state.resolve([found.span_id], None)
        wanted = claims(chosen for target in resolved for chosen in target.selections)
        if state.host.policy.authority.refusals("policy", wanted):
            try:
                authorise(state, plan.by, resolved, [found.span_id], plan.reason)
            except RefusedError:
                continue
        dependents += resolved
    return dependents


def _report(
    state: SessionState, plan: RetractionPlan, run: RetractionRun, retraction: str, started: float
) -> RetractionReport:
    """Describe what was done."""
    spans = named_spans([*plan.resolved, *run.dependents])
    approximate = any(branch.resident and branch.ledger.approximate_from is not None for branch in run.edited)
    approximate |= any(span.status is SpanStatus.APPROXIMATE for span in spans)  # also one that was edited before
    return RetractionReport(
        id=retraction,
        session=state.id,
        targets=tuple(map(target_name, plan.targets)),
        reason=str(plan.reason),
        eraser=", ".join(run.used) or (plan.eraser.name if plan.eraser else "default"),
        status=_status(plan, approximate=approximate, waits=bool(run.waiting)),
        spans=spans,
        redactions=tuple(run.redactions),
        tokens_erased=run.erased,
        tokens_recomputed=run.recomputed,
        tokens_reused=run.reused,
        seconds=time.perf_counter() - started,
        seconds_scoring=run.scoring,
        explanation=plan.explained(run.explain()),
        residual=run.residual,
        dependences=tuple(run.found),
        derived=plan.derived,
    )


def _status(plan: RetractionPlan, *, approximate: bool, waits: bool = False) -> RetractionStatus:
    """Return the status of a retraction. Nothing of an empty message is in any cells, also in approximate ones."""
    named = [chosen for target in plan.resolved for chosen in target.selections]
    named += [chosen for part in plan.branches for chosen in part.selections]
    if all(chosen.entry.empty for chosen in named):
        return RetractionStatus.NOOP
    if waits:
        return RetractionStatus.QUEUED
    return RetractionStatus.APPROXIMATE if approximate else RetractionStatus.EXACT


def _erase_later(
    state: SessionState, plan: RetractionPlan, redactions: Sequence[Redaction], retraction: str, branch: Branch
) -> None:
    """Erase from a branch that was generating an answer; once no branch waits any more, update the report.

    What was undone meanwhile, here or in another process, stays, and has no report.
    """
    state.records.refresh()
    if not state.records.holds(retraction):
        state.reports = [report for report in state.reports if report.id != retraction]
        return
    run = RetractionRun(plan.eraser, plan.reason)
    started = time.perf_counter()
    run.carry_out(plan_branches([branch], redactions, plan.eraser, plan.reason))
    used, seconds = ", ".join(run.used) or "none", time.perf_counter() - started
    exact = branch.ledger.approximate_from is None
    status = RetractionStatus.EXACT if exact else RetractionStatus.APPROXIMATE
    state.records.log_outcome(retraction, Outcome(status, used, run.erased, run.recomputed, seconds, run.residual))
    if any(chosen.intervals() for other in state.branches for chosen in selections(other.ledger, redactions)):
        return
    for report in state.reports:
        if report.id == retraction:
            changes = {
                "status": _status(plan, approximate=bool(state.approximate)),
                "eraser": used,
                "tokens_erased": report.tokens_erased + run.erased,
                "tokens_recomputed": report.tokens_recomputed + run.recomputed,
                "seconds": report.seconds + seconds,
                "explanation": plan.explained(run.explain()),
                "residual": run.residual,
            }
            state.update_report(report, changes)
            return
