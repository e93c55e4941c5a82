"""The plan of a retraction: what the targets mean, which cells of which branches that is, and how they are erased.

Making a plan erases nothing; `explain` and a dry run are answered from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from kv_memory.arguments import check_flag
from kv_memory.conversation.ledger import Ledger, Selection
from kv_memory.conversation.redactions import Redaction, selections
from kv_memory.conversation.spans import Span, Target
from kv_memory.conversation.targets import ResolvedTarget
from kv_memory.engines.parts import CellRows, Scoring, require
from kv_memory.erasers.base import Eraser
from kv_memory.errors import PolicyError, UnknownTargetError, UnsupportedOperationError
from kv_memory.policy.authority import OWNER
from kv_memory.policy.choice import Choice
from kv_memory.policy.choose import GIVEN_BACK
from kv_memory.policy.config import Cascade, Handling
from kv_memory.policy.reasons import Reason
from kv_memory.positions import Interval, merge
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.records import STRICT
from kv_memory.sessions.state import SessionState


@dataclass(frozen=True)
class BranchPlan:
    """The part of a retraction that concerns one branch."""

    branch: Branch
    selections: tuple[Selection, ...]
    intervals: tuple[Interval, ...]
    """Intervals of the positions to erase, ascending and disjoint; empty where all of it is erased already."""
    choice: Choice | None
    """Eraser that is used, and why; None where there are no cells to erase."""

    @property
    def cells(self) -> int:
        """Return the number of cells that are erased."""
        return self.branch.resident * sum(end - start for start, end in self.intervals)


@dataclass(frozen=True)
class RetractionPlan:
    """The steps of one retraction."""

    targets: tuple[Target, ...]
    reason: Reason | str
    by: str
    handling: Handling
    """Settings of the policy for this reason."""
    eraser: Eraser | None
    """Eraser that was asked for; None where one is chosen for each branch."""
    cascade: Cascade | None
    keep_undo: bool
    resolved: tuple[ResolvedTarget, ...]
    redactions: tuple[Redaction, ...]
    branches: tuple[BranchPlan, ...]
    """Plan for each branch that the retraction concerns, the branch that was used last first."""
    derived: tuple[str, ...]
    """Ids of the answers after what is named."""

    @property
    def cells(self) -> int:
        """Return the number of cells that are erased."""
        return sum(part.cells for part in self.branches)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return how each branch is erased, and why."""
        return tuple(part.choice for part in self.branches if part.choice is not None)

    @property
    def note(self) -> str:
        """Return a sentence that names the ids under which only an empty text or a placeholder was read."""
        told: dict[str, bool] = {}
        for chosen in (chosen for target in self.resolved for chosen in target.selections):
            said = chosen.entry.message
            name, stand_in = said.tool_call_id or said.id, chosen.entry.empty or said.placeholder
            if name is not None:
                told[name] = told.get(name, True) and stand_in
        names = ", ".join(repr(name) for name, only in told.items() if only)
        return names and (
            f"Only an empty text or a placeholder was read as {names}: a text that comes under the id later is not "
            "retracted and will be read; to retract it, give the history that holds it as messages=."
        )

    @property
    def explanation(self) -> str:
        """Return how each branch is erased, why, and what is not."""
        return self.explained(explain(self.choices))

    def explained(self, done: str) -> str:
        """Return an explanation of what is done, with the `note`."""
        return "\n".join(filter(None, [done, self.note]))

    @property
    def erasers(self) -> tuple[str, ...]:
        """Return the names of the erasers, each once."""
        chosen = [part.choice.eraser if part.choice else self.eraser for part in self.branches]
        return tuple(dict.fromkeys(eraser.name for eraser in chosen if eraser is not None))


def explain(choices: Sequence[Choice]) -> str:
    """Explain why these erasers were chosen; an explanation that several branches share is given once."""
    if not choices:
        return "Nothing of it is in the cache, so there is nothing to erase."
    return "\n".join(dict.fromkeys(choice.explain() for choice in choices))


def plan_retraction(
    state: SessionState,
    targets: Sequence[Target],
    *,
    reason: Reason | str = "",
    by: str = OWNER,
    eraser: str | Eraser | None = None,
    messages: Any = None,
    cascade: Cascade | None = None,
    keep_undo: bool | None = None,
) -> RetractionPlan:
    """Plan a retraction; arguments and errors as in `Session.retract`."""
    if not targets:
        raise UnknownTargetError("Nothing to retract was named; give a span, tool call, message or document id.")
    if keep_undo is not None:
        check_flag("keep_undo", keep_undo)
    if cascade is not None and cascade not in get_args(Cascade):
        raise PolicyError(f"There is no cascade {cascade!r}; give one of {', '.join(get_args(Cascade))}, or None.")
    policy = state.host.policy
    handling = policy.handling(reason)
    if cascade is not None:
        require(state.engine, Scoring, f"cascade={cascade!r}")
    elif isinstance(state.engine, Scoring):
        cascade = handling.cascade
    if keep_undo:
        require(state.engine, CellRows, "keep_undo")
    elif keep_undo is None:
        keep_undo = policy.keep_undo and handling.category not in STRICT and isinstance(state.engine, CellRows)
    # The memory's own eraser may be approximate: it is not used where the policy wants an exact one.
    wanted = None if eraser is None and handling.exact else state.eraser(eraser)
    resolved = state.resolve(targets, state.given(messages))
    redactions = tuple(state.records.described(resolved))
    branches = plan_branches(state.branches, redactions, wanted, reason)
    if eraser is not None and wanted is not None:
        _check_in_place(wanted, branches)
    return RetractionPlan(
        targets=tuple(targets),
        reason=reason,
        by=by,
        handling=handling,
        eraser=wanted,
        cascade=cascade,
        keep_undo=keep_undo,
        resolved=tuple(resolved),
        redactions=redactions,
        branches=branches,
        derived=_answers_after(resolved),
    )


def plan_branches(
    branches: Iterable[Branch], redactions: Sequence[Redaction], eraser: Eraser | None, reason: Reason | str
) -> tuple[BranchPlan, ...]:
    """Plan what is erased from each branch that these redactions concern, the branch that was used last first."""
    return tuple(
        _plan_branch(branch, concerned, eraser, reason)
        for branch in sorted(branches, key=lambda b: -b.used)
        if (concerned := selections(branch.ledger, redactions))
    )


def _plan_branch(
    branch: Branch, concerned: Sequence[Selection], eraser: Eraser | None, reason: Reason | str
) -> BranchPlan:
    intervals = tuple(merge(interval for chosen in concerned for interval in chosen.intervals()))
    choice = branch.choose(intervals, reason, eraser) if branch.resident and intervals else None
    return BranchPlan(branch, tuple(concerned), intervals, choice)


def _check_in_place(named: Eraser, branches: Iterable[BranchPlan]) -> None:
    """Raise UnsupportedOperationError where the eraser that the caller names cannot edit what is to be erased."""
    if any(plan.choice is not None and plan.choice.eraser is not named for plan in branches):
        raise UnsupportedOperationError(f"The eraser {named.name!r} cannot run here: {GIVEN_BACK}; use 'recompute'.")


def named_spans(resolved: Iterable[ResolvedTarget]) -> tuple[Span, ...]:
    """Return the spans that the targets mean, with their current status."""
    found: dict[str, Span] = {}
    for target in resolved:
        for chosen in target.selections:
            if chosen.span_id not in found:
                found[chosen.span_id] = target.ledger.span_of(chosen)
    return tuple(found.values())


def _answers_after(resolved: Sequence[ResolvedTarget]) -> tuple[str, ...]:
    """Return the ids of the answers in each conversation after the first message that is named in it."""
    ids: dict[str, None] = {}
    for ledger in _ledgers(resolved):
        named = [chosen.entry for target in resolved if target.ledger is ledger for chosen in target.selections]
        first = min((ledger.entries.index(entry) for entry in named), default=len(ledger))
        later = (e for e in ledger.entries[first + 1 :] if e.message.role == "assistant" and not e.cuts)
        ids |= dict.fromkeys(e.message.id or e.span_id for e in later)
    return tuple(ids)


def _ledgers(resolved: Sequence[ResolvedTarget]) -> list[Ledger]:
    return list({id(target.ledger): target.ledger for target in resolved}.values())
