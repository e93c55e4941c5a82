"""The guarantee: no cache is used that holds text which a redaction in force concerns.

Whatever came before (queues, forks, streams, healing, another process), a branch is checked here right before it
answers, scores, is copied, or takes the place of another; what is still there is erased first.
"""

from __future__ import annotations

from functools import partial

from kv_memory.conversation.redactions import concerned
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.records import STRICT
from kv_memory.sessions.run_all import run_all
from kv_memory.sessions.state import SessionState


def enforce(state: SessionState, branch: Branch) -> None:
    """Erase from a branch what is in force and still there: exactly, where a reason is strict.

    Compares the redactions with the cells that the branch has now, not with what is remembered of them. If erasing
    fails, the branch has been cut off before the text. Callers hold the engine's lock.
    """
    state.records.refresh()
    found = concerned(branch.ledger, state.records.redactions)
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
