"""The state of a session: branches, redactions, reports, rows kept for undo, and deferred work."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

from kv_memory.arguments import check
from kv_memory.audit import AuditLog
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.spans import SpanStatus, Target
from kv_memory.conversation.targets import ResolvedTarget, learn_ids, message_of, resolve
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import TargetError, UnknownTargetError
from kv_memory.policy.config import Heal
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.branches import Branches, BranchHost
from kv_memory.sessions.heal import Healer
from kv_memory.sessions.kept_rows import Shelf
from kv_memory.sessions.plan import Tools
from kv_memory.sessions.records import Records
from kv_memory.sessions.reply import FinishReason
from kv_memory.sessions.report import RetractionReport, RetractionStatus
from kv_memory.sessions.run_all import run_all

_LOG = logging.getLogger(__name__)


class StateHost(BranchHost, Protocol):
    """The part of a memory that its sessions share; `Memory` is one."""

    audit: AuditLog | None
    originals: Originals
    heal: Heal | None
    healer: Healer
    on_heal: Callable[[RetractionReport], object] | None

    def load_eraser(self, eraser: str | Eraser) -> Eraser:
        """Return the eraser of this name, ready to run; see `Memory.load_eraser`."""

    def explain_unknown(self, session_id: str, target: Target) -> UnknownTargetError:
        """Return the error for a target that this session does not hold."""


class SessionState:
    """The state of one session. Callers hold the engine's lock, except for `defer`."""

    def __init__(self, host: StateHost, session_id: str) -> None:
        self.id = session_id
        self.host = host
        self.engine = host.engine
        self.branches = Branches(host)
        self.records = Records(session_id, host.originals, host.audit)
        self.reports: list[RetractionReport] = []
        self.heals = True
        """Whether approximate erasures are healed automatically."""
        self.kept = Shelf(self.engine.lock, self.settle)
        self._waiting: list[tuple[Branch, Callable[[], object]]] = []
        self._deferred: deque[Callable[[], object]] = deque()
        self._answers: set[Generator[object]] = set()
        """Answers that somebody may still read. Python does not end them as garbage, in the middle of another call."""

    # Work that waits

    def defer(self, action: Callable[[], object]) -> None:
        """Defer an action until before the next conversation is read, with the engine's lock held. Never blocks."""
        self._deferred.append(action)

    def hold(self, answer: Generator[object]) -> None:
        """Hold an answer until `let_go`."""
        self._answers.add(answer)

    def let_go(self, answer: Generator[object]) -> None:
        """End an answer that nobody reads any more. Where this thread is in the middle of a call, as when the garbage
        collector finds the answer there, it ends before the next conversation is read."""
        self._answers.discard(answer)
        if self.engine.lock.held:
            self.defer(answer.close)
        else:
            answer.close()

    def when_free(self, branch: Branch, action: Callable[[], object]) -> None:
        """Defer an action until no answer is being generated on the branch."""
        self._waiting.append((branch, action))

    def catch_up(self) -> None:
        """Run the deferred actions, and those that waited for branches that are free now; see `run_all`."""
        ready: list[Callable[[], object]] = []
        while self._deferred:
            ready.append(self._deferred.popleft())
        run_all([*ready, self.finish_waiting])

    def finish_waiting(self) -> None:
        """Run the actions that waited for branches that are free now; see `run_all`."""
        ready = [action for branch, action in self._waiting if not branch.busy]
        self._waiting = [(branch, action) for branch, action in self._waiting if branch.busy]
        run_all(ready)

    # Targets

    def resolve(self, targets: Sequence[Target], given: Ledger | None) -> list[ResolvedTarget]:
        """Find what the targets mean: in the conversation `given` first, then in the branches, last used first."""
        ledgers = [branch.ledger for branch in self.branches.by_use]
        resolved: list[ResolvedTarget] = []
        if given is not None:
            learn_ids(ledgers, given)
        for target in targets:
            try:
                resolved += resolve(self.identified(target), ledgers, given)
            except UnknownTargetError as error:
                raise self.host.explain_unknown(self.id, target) from error
        return resolved

    def given(self, messages: Any) -> Ledger | None:
        """Return the conversation that a caller passes as a ledger."""
        return None if messages is None else self.unread(self.identify(parse_messages(messages)))

    def unread(self, messages: Sequence[Message], tools: Tools = None) -> Ledger:
        """Return a conversation as a ledger, before any of it is prefilled: all its pieces are at position 0, and its
        messages have the span ids that they will have."""
        ledger = Ledger(self.branches.numbers)
        missing = {i: message.missing for i, message in enumerate(messages) if message.missing}
        for message, pieces in zip(messages, self.host.format.encode(messages, tools, cuts=missing), strict=True):
            ledger.append(message, pieces, 0, cuts=message.missing)
        return ledger

    def identify(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages as this session knows them: versions of one message as the same; see `Originals`."""
        self.records.refresh()
        return self.host.originals.identify(messages, self.records.known, self._read)

    def _read(self) -> set[str]:
        """Return the digests of all messages that the branches know."""
        return {entry.digest for branch in self.branches for entry in branch.ledger.entries}

    def identified(self, target: Target) -> Target | Message:
        """Return a target, a message as this session knows it."""
        return self.identify([message_of(target)])[0] if isinstance(target, Mapping) else target

    def eraser(self, asked: str | Eraser | None) -> Eraser | None:
        """Return the eraser that a call asks for, else the memory's own; None where the policy is to choose."""
        asked = self.host.eraser if asked is None else asked
        return None if asked is None else self.host.load_eraser(asked)

    # Healing

    @property
    def approximate(self) -> list[Branch]:
        """Return the branches whose cells may carry influence of what was erased."""
        return [b for b in self.branches if b.resident and b.ledger.approximate_from is not None]

    def settle(self, heal: Heal | None = None) -> None:
        """Heal when it is time: as the memory says, else as `heal` says, else as the policy says."""
        heal = self.host.heal or heal or self.host.policy.heal
        approximate = self.approximate
        if heal == "never" or not self.heals or not approximate:
            return
        undoable = [self.kept.holds(branch) for branch in approximate]
        if heal == "now" and not any(undoable):
            self.heal()
        elif heal == "idle" and not all(undoable):
            self.host.healer.wake()

    def heal(self) -> None:
        """Recompute exactly, now, the cells that approximate erasures may have left influence in."""
        for branch in self.approximate:
            if not branch.busy:
                branch.erase([], Recompute())
        self.note_healed()

    def note_healed(self) -> None:
        """Set the status of the reports to "exact" where no branch is approximate any more."""
        if self.approximate:
            return
        for report in [known for known in self.reports if known.status is RetractionStatus.APPROXIMATE]:
            healed = self.update_report(report, {"status": RetractionStatus.EXACT, "healed": True})
            self.records.log_healed(healed.id)
            self._tell_healed(healed)

    def _tell_healed(self, report: RetractionReport) -> None:
        if self.host.on_heal is None:
            return
        try:
            self.host.on_heal(report)
        except Exception:  # whatever the caller's function raises, the conversation is healed
            _LOG.exception("Retraction %s is healed, but on_heal failed.", report.id)

    # Room

    def evict(self) -> None:
        """Free all cells, and the rows kept for undo; answers that are being generated end as cancelled."""
        self.kept.clear()
        for branch in self.branches:
            if branch.interrupt is not None:
                branch.interrupt(FinishReason.CANCELLED)
            branch.evict()
        self.finish_waiting()

    # Reports

    def report(self, report_id: str) -> RetractionReport:
        """Return the report with its current status. Raises TargetError where there is none."""
        for report in self.reports:
            if report.id == report_id:
                return report
        raise TargetError(
            f"Session {self.id!r} has no report {report_id!r}; it was undone or is of another session, `reports` lists "
            "those that there are."
        )

    def check_own(self, report: RetractionReport) -> None:
        """Raise ArgumentError where this is no report, TargetError where it is one of another session."""
        check("report", report, RetractionReport, "a RetractionReport, as retract() returns it and report(id) gives it")
        if report.session != self.id:
            raise TargetError(
                f"The report {report.id} is of session {report.session!r}, not of {self.id!r}; use that session."
            )

    def update_report(self, report: RetractionReport, changes: dict[str, Any]) -> RetractionReport:
        """Replace a report, with the current status of its spans; spans of branches that are gone are exact."""
        last_used_last = reversed(self.branches.by_use)
        spans = {span.id: span for branch in last_used_last for span in branch.ledger.spans()}
        now = (spans.get(span.id, span.model_copy(update={"status": SpanStatus.EXACT})) for span in report.spans)
        changed = report.model_copy(update={**changes, "spans": tuple(now)})
        self.reports = [changed if known.id == report.id else known for known in self.reports]
        return changed
