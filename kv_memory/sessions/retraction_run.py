"""RetractionRun a retraction out on the branches of a session, and saying what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kv_memory.conversation.ledger import Ledger, Selection
from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.conversation.resolve import ResolvedTarget
from kv_memory.conversation.spans import Span, SpanStatus
from kv_memory.erasers.base import Eraser
from kv_memory.policy.choice import Choice
from kv_memory.policy.reasons import Reason
from kv_memory.positions import merge
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.dependence import Dependence, dependences, log_probabilities, turns_after
from kv_memory.sessions.report import RetractionStatus
from kv_memory.sessions.undo import Kept, erase_undoably


@dataclass
class RetractionRun:
    """One retraction on its way through the branches. Callers hold the engine's lock."""

    eraser: Eraser | None
    """None chooses by branch."""
    reason: Reason | str = ""
    dry_run: bool = False
    score: bool = False
    """Score what the assistant wrote afterwards, with what is erased and without it."""
    erased: int = 0
    """Tokens."""
    recomputed: int = 0
    used: list[str] = field(default_factory=list)
    """Names of erasers."""
    edited: list[Branch] = field(default_factory=list)
    waiting: list[Branch] = field(default_factory=list)
    """Branches at whose end an answer is being written."""
    found: list[Dependence] = field(default_factory=list)
    scoring: float = 0.0
    """Seconds."""
    keep: bool = False
    """Keep the rows that are erased, where that is possible."""
    kept: list[Kept] = field(default_factory=list)
    chosen: list[Choice] = field(default_factory=list)
    """How each branch was erased, and why."""

    def carry_out(self, branches: Iterable[Branch], redactions: Sequence[Redaction]) -> None:
        """Erase what these redactions concern, the branch that was used last first."""
        for branch in sorted(branches, key=lambda b: -b.used):
            concerned = selections(branch.ledger, redactions)
            if concerned and branch.busy and not self.dry_run:
                self.waiting.append(branch)
            elif concerned:
                self._erase(branch, concerned)

    @property
    def reused(self) -> int:
        """Cells that stayed as they were."""
        return sum(branch.cells for branch in self.edited) - self.recomputed - self.dry_run * self.erased

    def _erase(self, branch: Branch, concerned: Sequence[Selection]) -> None:
        intervals = [interval for s in concerned for interval in s.intervals()]
        self.erased += branch.resident * sum(end - start for start, end in intervals)
        self.edited += [branch] if branch not in self.edited else []
        chosen = self.eraser
        if branch.resident and intervals:
            self.chosen.append(branch.choose(merge(intervals), self.reason, self.eraser))
            chosen = self.chosen[-1].eraser
        if self.dry_run:
            self.used += [chosen.name] if chosen is not None and chosen.name not in self.used else []
            return
        first = min((start for start, _ in intervals), default=0)
        turns = []
        if self.score and not self.found and branch.resident and intervals:
            turns = [t for t in turns_after(branch, first) if not any(t.entry is s.entry for s in concerned)]
        before = self._score(branch, turns, first)
        again, name, kept = erase(branch, concerned, chosen, self.reason, keep=self.keep)
        self.kept += [kept] if kept else []
        self.recomputed += again
        self.used += [name] if name not in self.used else []
        self.found += dependences(turns, before, self._score(branch, turns, first))

    def _score(self, branch: Branch, turns: Sequence[Selection], first: int) -> list[float]:
        if not turns:
            return []
        started = time.perf_counter()
        scores = log_probabilities(branch, turns, first)
        self.scoring += time.perf_counter() - started
        return scores

    def explain(self) -> str:
        """Why it was erased so, in words; what was chosen for several branches alike is said once."""
        if self.recomputed and not self.chosen:
            return f"{', '.join(self.used)}: makes exact what was erased approximately before."
        if not self.chosen:
            return "Nothing of it is in the cache, so there is nothing to erase."
        return "\n".join(dict.fromkeys(choice.explain() for choice in self.chosen))

    @property
    def residual(self) -> float | None:
        """Residual influence that was measured of the erasers used, the highest; None where it is not known of all."""
        known = [choice.residual for choice in self.chosen]
        left = [residual for residual in known if residual is not None]
        return max(left) if left and len(left) == len(known) else None


def erase(
    branch: Branch,
    concerned: Sequence[Selection],
    eraser: Eraser | None,
    reason: Reason | str = "",
    *,
    keep: bool = False,
) -> tuple[int, str, Kept | None]:
    """Tokens recomputed, the name of the eraser that did it, and with `keep` what it takes to undo it."""
    live = any(selection.intervals() for selection in concerned)
    upgrade = eraser is not None and eraser.exact and branch.ledger.approximate_from is not None
    if not (live or upgrade):
        return 0, eraser.name if eraser else "none", None
    if keep:
        recomputed, used, kept = erase_undoably(branch, concerned, eraser, reason)
        return recomputed, used.name, kept
    recomputed, used, _ = branch.erase(concerned, eraser, reason)
    return recomputed, used.name, None


def forget_redactions(branch: Branch, redactions: Sequence[Redaction]) -> None:
    """Forget the conversation from the first message on that the redactions concern."""
    numbers = [branch.ledger.entries.index(s.entry) for s in selections(branch.ledger, redactions)]
    if numbers:
        branch.cut_off(min(numbers))


def never_read(resolved: Sequence[ResolvedTarget], ledgers: Sequence[Ledger]) -> None:
    """Enter as erased what is named of a conversation that no branch has read."""
    for target in resolved:
        if target.ledger not in ledgers:
            target.ledger.erase(selections(target.ledger, target.redactions), (), exact=True)


def span_ids(resolved: Sequence[ResolvedTarget]) -> list[tuple[Ledger, set[str]]]:
    """The spans that are meant, by conversation: see `named_spans`."""
    return [(m.ledger, {s.span_id for s in selections(m.ledger, m.redactions)}) for m in resolved]


def named_spans(named: Sequence[tuple[Ledger, set[str]]]) -> tuple[Span, ...]:
    """The spans with these ids, of each ledger."""
    found = {(id(ledger), span.id): span for ledger, ids in named for span in ledger.spans() if span.id in ids}
    return tuple(found.values())


def answers_after(resolved: Sequence[ResolvedTarget]) -> tuple[str, ...]:
    """The answers in each conversation after the first message that is meant in it."""
    ids: dict[str, None] = {}
    for ledger in {id(m.ledger): m.ledger for m in resolved}.values():
        redactions = [redaction for m in resolved if m.ledger is ledger for redaction in m.redactions]
        first = min((ledger.entries.index(s.entry) for s in selections(ledger, redactions)), default=len(ledger))
        later = (e for e in ledger.entries[first + 1 :] if e.message.role == "assistant" and not e.cuts)
        ids |= dict.fromkeys(e.message.id or e.span_id for e in later)
    return tuple(ids)


def status_of(spans: Sequence[Span]) -> RetractionStatus:
    """What became of spans that were to be erased, together."""
    statuses = {span.status for span in spans}
    if statuses <= {SpanStatus.LIVE}:
        return RetractionStatus.NOOP
    return RetractionStatus.APPROXIMATE if SpanStatus.APPROXIMATE in statuses else RetractionStatus.EXACT
