"""Undo of a retraction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kv_memory.conversation.messages import Cuts
from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.policy.authority import OWNER
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.enforce import enforce
from kv_memory.sessions.report import RetractionReport, UndoStatus
from kv_memory.sessions.run_all import run_all
from kv_memory.sessions.state import SessionState


def undo(state: SessionState, report: RetractionReport) -> UndoStatus:
    """Undo a retraction; see `Session.undo`. Callers hold the engine's lock."""
    state.records.refresh()
    if not state.records.holds(report.id):
        return UndoStatus.NOOP
    kept = [rows for rows in reversed(state.kept.of(report.id)) if rows.usable]
    restored = {rows.branch for rows in kept}
    resident = [branch for branch in state.branches if branch.resident]
    concerned = {branch for branch in resident if selections(branch.ledger, report.redactions)}
    status = UndoStatus.RESTORED if restored and concerned <= restored else UndoStatus.PENDING_REREAD
    state.records.withdraw(report.id, by=OWNER, status=status)
    state.kept.drop(report.id)
    state.reports = [other for other in state.reports if other.id != report.id]
    for rows in kept:
        rows.put_back()
    run_all(partial(enforce, state, branch) for branch in restored)  # another retraction may name part of it
    for branch in list(state.branches):
        if branch.busy:
            state.when_free(branch, partial(_cut_off, state, branch, report.redactions))
        elif branch not in restored:
            _cut_off(state, branch, report.redactions)
    return status


def _cut_off(state: SessionState, branch: Branch, redactions: Sequence[Redaction]) -> None:
    """Cut the branch off before the first message of which these redactions, no longer in force, took something out
    that no other does, so that it is prefilled again. Targets still name what is cut off; a branch without cells keeps
    its messages for the same reason."""
    if not branch.resident:
        return
    entries = branch.ledger.entries
    others: dict[int, Cuts] = {}
    for chosen in selections(branch.ledger, state.records.redactions):
        number = entries.index(chosen.entry)
        others[number] = others.get(number, Cuts()) | chosen.cuts
    numbers = [entries.index(chosen.entry) for chosen in selections(branch.ledger, redactions)]
    lacking = [number for number in numbers if entries[number].cuts - others.get(number, Cuts())]
    if lacking:
        enforce(state, state.branches.remember(branch))
        branch.cut_off(min(lacking))
