"""The guarantee: no cache is used that holds text which a redaction in force concerns.

Whatever came before (queues, forks, streams, healing, another process), a branch is checked here right before it
answers, scores, is copied, or takes the place of another; what is still there is erased first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kv_memory.conversation.ledger import Selection, selection
from kv_memory.conversation.redactions import Redaction, concerned, places
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.plan import ReadingPlan
from kv_memory.sessions.records import STRICT
from kv_memory.sessions.run_all import run_all
from kv_memory.sessions.state import SessionState


def enforce(state: SessionState, branch: Branch) -> None:
    """Erase from a branch what is in force and still there: exactly, where a reason is strict.

    Compares the redactions with the cells that the branch has now, not with what is remembered of them. If erasing
    fails, the branch has been cut off before the text. Callers hold the engine's lock.
    """
    state.records.refresh()
    _erase(state, branch, concerned(branch.ledger, state.records.redactions))


def enforce_beginning(state: SessionState, branch: Branch, plan: ReadingPlan[Branch]) -> None:
    """Erase from a branch that holds the beginning of a conversation what is in force there, before the rest is read.

    Which of several equal messages is meant is known from the whole conversation. Otherwise as `enforce`.
    """
    kept = [branch.ledger.entries[number] for number in plan.alignment.kept]
    found = [
        (redaction, selection(kept[place], redaction.cuts))
        for redaction, place in places(plan.messages, state.records.redactions)
        if place < len(kept)
    ]
    _erase(state, branch, found)


def _erase(state: SessionState, branch: Branch, found: Sequence[tuple[Redaction, Selection]]) -> None:
    live = [(redaction, chosen) for redaction, chosen in found if chosen.intervals()]
    if not live:
        return
    reasons = [state.records.reason(redaction) for redaction, _ in live]
    handled = [state.host.policy.handling(reason) for reason in reasons]
    eraser: Eraser | None = state.host.eraser
    if any(reason.category in STRICT or handling.exact for reason, handling in zip(reasons, handled, strict=True)):
        eraser = Recompute()
    branch.erase([chosen for _, chosen in live], eraser, reasons[0])


def enforce_free(state: SessionState) -> None:
    """Check every branch on which no answer is generated; the others are checked when theirs ends.

    A branch on which erasing fails does not keep the others from it; the first error is raised at the end.
    """
    run_all(partial(enforce, state, branch) for branch in list(state.branches) if not branch.busy)
