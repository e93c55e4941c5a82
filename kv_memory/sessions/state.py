"""What a session keeps: its branches, what was retracted, and what waits to be done."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from kv_memory.audit import Attempt, AuditError, SealedRedaction
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.resolve import ResolvedTarget, learn_ids, resolve
from kv_memory.conversation.spans import Span, SpanStatus, Target
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import UnknownTargetError
from kv_memory.policy.authority import OWNER
from kv_memory.policy.config import Heal
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.branches import Branches, Tools
from kv_memory.sessions.report import RetractionReport, RetractionStatus
from kv_memory.sessions.undo import Shelf

if TYPE_CHECKING:
    from kv_memory.sessions.memory import Memory

_LOG = logging.getLogger(__name__)


class SessionState:
    """The part of a session that all others build on."""

    def __init__(self, memory: Memory, session_id: str) -> None:
        self.id = session_id
        self.branches = Branches(memory)
        self.reports: list[RetractionReport] = []
        self.heals = True
        """What approximate erasures leave is healed, as the memory says."""
        self._memory = memory
        self._engine = memory.engine
        self._redactions: list[Redaction] = []
        self._kept = Shelf(self._engine.lock, self._settle)
        self._queued: list[tuple[Branch, Callable[[], object]]] = []
        self._deferred: deque[Callable[[], object]] = deque()
        self._audit = memory.audit
        self._sealed = memory.audit.retracted(session_id) if memory.audit else []
        """What the audit log says was retracted, by this process or another."""

    def report(self, report_id: str) -> RetractionReport:
        """The report as it is by now: a healed retraction says "exact". Raises KeyError where there is none."""
        return {report.id: report for report in self.reports}[report_id]

    def defer(self, action: Callable[[], object]) -> None:
        """Have this done before the next conversation is read, with the engine's lock held. Waits for nothing."""
        self._deferred.append(action)

    def heal(self) -> None:
        """Read everything that approximate erasures may have left their mark on again, exactly, now."""
        with self._engine.lock:
            for branch in self._approximate():
                if not branch.busy:
                    branch.erase([], Recompute())
            self.note_healed()

    def note_healed(self) -> None:
        """Make the reports say so where no branch is approximate any more. Callers hold the engine's lock."""
        if self._approximate():
            return
        for place, report in enumerate(self.reports):
            if report.status is RetractionStatus.APPROXIMATE:
                now = {"status": RetractionStatus.EXACT, "healed": True, "spans": self._spans_now(report)}
                self.reports[place] = report.model_copy(update=now)
                self._record_healed(report.id)
                self._tell_healed(self.reports[place])

    def _spans_now(self, report: RetractionReport) -> tuple[Span, ...]:
        """The spans of a report as they stand; those of branches that are gone are exact."""
        spans = {span.id: span for branch in self.branches for span in branch.ledger.spans()}
        return tuple(spans.get(span.id, span.model_copy(update={"status": SpanStatus.EXACT})) for span in report.spans)

    def _tell_healed(self, report: RetractionReport) -> None:
        if self._memory.on_heal is None:
            return
        try:
            self._memory.on_heal(report)
        except Exception:  # the caller's, and the conversation is healed all the same
            _LOG.exception("Retraction %s is healed, but on_heal failed.", report.id)

    def _record_healed(self, report_id: str) -> None:
        if self._audit is None:
            return
        try:
            self._audit.healed(self.id, report_id)
        except AuditError:  # it is healed all the same
            _LOG.exception("Retraction %s is healed, but that was not written down.", report_id)

    def undoable(self, branch: Branch) -> bool:
        """Whether rows are kept that healing would make useless."""
        return self._kept.holds(branch)

    def _approximate(self) -> list[Branch]:
        return [b for b in self.branches if b.resident and b.ledger.approximate_from is not None]

    def _settle(self, heal: Heal | None = None) -> None:
        """Heal as the memory says, which goes before what is asked for."""
        heal = self._memory.heal or heal or self._memory.policy.heal
        if heal == "never" or not self.heals or not self._approximate():
            return
        if heal == "now":
            if not any(map(self.undoable, self._approximate())):
                self.heal()
        elif not all(self.undoable(branch) for branch in self._approximate()):
            self._memory.healer.wake()

    def _apply_queued(self) -> None:
        while self._deferred:
            self._deferred.popleft()()
        waiting = [item for item in self._queued if not item[0].busy]
        self._queued = [item for item in self._queued if item[0].busy]
        for _, change in waiting:
            change()

    def _recall(self, messages: Sequence[Message]) -> None:
        """Remember what another process retracted of these messages."""
        if self._sealed and self._memory.audit is not None:
            self._remember(self._memory.audit.unseal(self._sealed, messages))

    def _recorded(
        self,
        targets: Sequence[Target],
        redactions: Sequence[Redaction | SealedRedaction],
        spans: Sequence[Span] = (),
        by: str = OWNER,
        reason: str = "",
        *,
        log: bool = True,
    ) -> AbstractContextManager[Attempt]:
        """A retraction that is written down before anything is changed, and after."""
        if self._audit is None or not log:
            return nullcontext(Attempt())
        return self._audit.retraction(
            session=self.id, targets=targets, redactions=redactions, spans=spans, by=by, reason=reason
        )

    def _remember(self, redactions: Sequence[Redaction]) -> None:
        self._redactions += [redaction for redaction in redactions if redaction not in self._redactions]

    def _resolve(self, targets: Sequence[Target], given: Ledger | None) -> list[ResolvedTarget]:
        """What the targets mean; the conversation `given` is asked first, then the branch used last."""
        ledgers = [branch.ledger for branch in sorted(self.branches, key=lambda b: -b.used)]
        resolved = []
        if given is not None:
            learn_ids(ledgers, given)
        for target in targets:
            try:
                resolved += resolve(target, ledgers, given)
            except UnknownTargetError as error:
                raise self._memory.explain_unknown(self, target) from error
        return resolved

    def _given(self, messages: Any) -> Ledger | None:
        """The conversation of a retraction; its span ids are none of the session's."""
        if messages is None:
            return None
        parsed = parse_messages(messages)
        self._recall(parsed)
        return self._unread(parsed, Ledger(itertools.count(-1, -1)))

    def _unread(self, messages: Sequence[Message], ledger: Ledger, tools: Tools = None) -> Ledger:
        """A conversation as a ledger of no cells."""
        for message, pieces in zip(messages, self._memory.format.encode(messages, tools), strict=True):
            ledger.append(message, pieces, 0)
        return ledger
