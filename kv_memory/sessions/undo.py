"""Undo of a retraction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.policy.authority import OWNER
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.enforce import enforce
from kv_memory.sessions.report import RetractionReport, UndoStatus
from kv_memory.sessions.run_all import run_all
from kv_memory.sessions.state import SessionState


def undo(state: SessionState, report: RetractionReport) -> UndoStatus:
    """Undo a retraction; see `Session.undo`. Callers hold the engine's lock."""
    if not state.records.holds_any(report.redactions):
        return UndoStatus.NOOP
    others = [other for other in state.reports if other.id != report.id]
    elsewhere = {redaction for other in others for redaction in other.redactions}
    undone = [redaction for redaction in report.redactions if redaction not in elsewhere]
    kept = [rows for rows in reversed(state.kept.of(report.id)) if rows.usable]
    kept = kept if len(undone) == len(report.redactions) else []
    restored = {rows.branch for rows in kept}
    concerned = {branch for branch in state.branches if branch.resident and selections(branch.ledger, undone)}
    status = UndoStatus.RESTORED if restored and concerned <= restored else UndoStatus.PENDING_REREAD
    state.records.withdraw(report.id, undone, by=OWNER, status=status)
    state.kept.drop(report.id)
    state.reports = others
    for rows in kept:
        rows.put_back()
    run_all(partial(enforce, state, branch) for branch in restored)  # another retraction may name part of it
    for branch in state.branches:
        if branch.busy:
            state.when_free(branch, partial(_cut_off, branch, undone))
        elif branch not in restored:
            _cut_off(branch, undone)
    return status


def _cut_off(branch: Branch, redactions: Sequence[Redaction]) -> None:
    """Cut the branch off before the first message that the redactions concern, so that it is prefilled again."""
    numbers = [branch.ledger.entries.index(chosen.entry) for chosen in selections(branch.ledger, redactions)]
    if numbers:
        branch.cut_off(min(numbers))
