"""Execution of a retraction plan on the branches of a session, with its results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from kv_memory.conversation.ledger import Selection
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.targets import ResolvedTarget
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.policy.choice import Choice
from kv_memory.policy.reasons import Reason
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.dependence import Dependence, dependences, log_probabilities, turns_after
from kv_memory.sessions.kept_rows import KeptRows
from kv_memory.sessions.retraction_plan import BranchPlan, explain
from kv_memory.sessions.run_all import run_all


@dataclass
class RetractionRun:
    """One retraction while it is carried out, with its results so far. Callers hold the engine's lock."""

    eraser: Eraser | None
    """Eraser that was asked for; None where one is chosen for each branch."""
    reason: Reason | str = ""
    score: bool = False
    """Whether to score what the assistant wrote afterwards, with the erased text and without it."""
    keep: bool = False
    """Whether to keep the rows that are erased, where that is possible."""
    erased: int = 0
    """Number of tokens erased."""
    recomputed: int = 0
    """Number of tokens recomputed."""
    used: list[str] = field(default_factory=list)
    """Names of the erasers used on cells, each once."""
    edited: list[Branch] = field(default_factory=list)
    waiting: list[Branch] = field(default_factory=list)
    """Branches at whose end an answer is being generated."""
    found: list[Dependence] = field(default_factory=list)
    dependents: list[ResolvedTarget] = field(default_factory=list)
    """Turns that a cascade retracted too."""
    redactions: list[Redaction] = field(default_factory=list)
    """All that the retraction put in force."""
    scoring: float = 0.0
    """Seconds spent on scoring."""
    kept: list[KeptRows] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    """Eraser for each branch, and why."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was done otherwise than the erasers say, each once."""

    def carry_out(self, plans: Iterable[BranchPlan]) -> None:
        """Erase what was planned for each branch; branches that are generating an answer are put in `waiting`."""
        plans = list(plans)
        self.waiting += [plan.branch for plan in plans if plan.branch.busy]
        run_all(partial(self._erase, plan) for plan in plans if not plan.branch.busy)

    @property
    def reused(self) -> int:
        """Return the number of cells that stayed as they were."""
        return sum(branch.cells for branch in self.edited) - self.recomputed

    @property
    def residual(self) -> float | None:
        """Return the highest residual influence of the erasers used; see `highest_residual`."""
        return highest_residual(self.choices)

    def explain(self) -> str:
        """Explain why these erasers were used."""
        if self.recomputed and not self.choices:
            return f"{', '.join(self.used)}: makes exact what was erased approximately before."
        return "\n".join([explain(self.choices), *self.notes])

    def _erase(self, plan: BranchPlan) -> None:
        branch = plan.branch
        self.erased += plan.cells
        self.edited += [branch] if branch not in self.edited else []
        eraser = self.eraser
        if plan.choice is not None:
            self.choices.append(plan.choice)
            eraser = plan.choice.eraser
        first = plan.intervals[0][0] if plan.intervals else 0
        turns: list[Selection] = []
        if self.score and not self.found and plan.choice is not None:
            named = [chosen.entry for chosen in plan.selections]
            turns = [turn for turn in turns_after(branch, first) if turn.entry not in named]
        before = self._score(branch, turns, first)
        name = self._erase_cells(plan, eraser)
        self.used += [name] if branch.resident and name not in self.used else []
        self.found += dependences(turns, before, self._score(branch, turns, first))

    def _erase_cells(self, plan: BranchPlan, eraser: Eraser | None) -> str:
        """Erase from one branch and return the name of the eraser that was used."""
        branch = plan.branch
        upgrade = branch.ledger.approximate_from is not None and self._exact(branch, eraser)
        if not (plan.intervals or upgrade):
            return eraser.name if eraser else "none"
        if not plan.intervals:
            eraser = eraser or Recompute()
        kept = KeptRows(branch, plan.selections) if self.keep else None
        done, used = branch.erase(plan.selections, eraser, self.reason, keep=self.keep)
        if kept is not None:
            kept.finish(done.undo)
            self.kept.append(kept)
        self.recomputed += done.recomputed
        self.notes += [done.note] if done.note and done.note not in self.notes else []
        return used.name

    def _exact(self, branch: Branch, eraser: Eraser | None) -> bool:
        """Return whether a branch is to be exact afterwards: the eraser is, or the policy wants it for this reason."""
        if eraser is not None:
            return eraser.exact
        return branch.policy is not None and branch.policy.handling(self.reason).exact

    def _score(self, branch: Branch, turns: Sequence[Selection], first: int) -> list[float]:
        if not turns:
            return []
        started = time.perf_counter()
        scores = log_probabilities(branch, turns, first)
        self.scoring += time.perf_counter() - started
        return scores


def highest_residual(choices: Sequence[Choice]) -> float | None:
    """Return the highest residual influence that was measured for these; None where one was not measured."""
    known = [choice.residual for choice in choices]
    left = [residual for residual in known if residual is not None]
    return max(left) if left and len(left) == len(known) else None
