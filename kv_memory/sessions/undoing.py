"""Taking a retraction back."""

from __future__ import annotations

from functools import partial

from kv_memory.conversation.redactions import selections
from kv_memory.policy.authority import OWNER
from kv_memory.sessions.report import RetractionReport, UndoStatus
from kv_memory.sessions.retract import RetractingSession
from kv_memory.sessions.retraction_run import forget_redactions


class UndoingSession(RetractingSession):
    """A session that can be told to remember again."""

    def undo(self, report: RetractionReport) -> UndoStatus:
        """Take a retraction back: the next call reads again, from the first erased part on, what its history holds.

        With `keep_undo` the erased cells are put back, bit-identical, as long as nothing has moved or healed since;
        what was read meanwhile never saw them and stays as it is. Return whether this was done; the audit log says the
        same.

        The text itself is not kept here: a history in which tombstones stand needs the messages back. What another
        retraction named too stays retracted.
        """
        with self._engine.lock:
            if not self._sealed and not any(redaction in self._redactions for redaction in report.redactions):
                return UndoStatus.NOOP
            others = [other for other in self.reports if other.id != report.id]
            still = {redaction for other in others for redaction in other.redactions}
            undone = [redaction for redaction in report.redactions if redaction not in still]
            kept = [
                rows
                for rows in reversed(self._kept.of(report.id))
                if rows.usable and len(undone) == len(report.redactions)
            ]
            restored = {rows.branch for rows in kept}
            concerned = {b for b in self.branches if b.resident and selections(b.ledger, undone)}
            outcome = UndoStatus.RESTORED if restored and concerned <= restored else UndoStatus.PENDING_REREAD
            if self._audit is not None:
                self._audit.undone(self.id, report.id, by=OWNER, status=outcome)
                self._sealed = self._audit.retracted(self.id)
            self._kept.drop(report.id)
            self.reports = others
            self._redactions = [redaction for redaction in self._redactions if redaction not in undone]
            for rows in kept:
                rows.put_back()
            for branch in self.branches:
                if branch.busy:
                    self._queued.append((branch, partial(forget_redactions, branch, undone)))
                elif branch not in restored:
                    forget_redactions(branch, undone)
            return outcome
