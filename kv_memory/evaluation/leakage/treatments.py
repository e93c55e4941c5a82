"""Treatments of one conversation: nothing erased, erased by each eraser, and never seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kv_memory.erasers import ERASERS
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage.scenes import Messages, Tools
from kv_memory.policy.config import Cascade
from kv_memory.sessions.memory import Memory
from kv_memory.sessions.session import Session

HEALED = "healed"
"""Erased by `drop`, then healed."""


def available(memory: Memory, wanted: Sequence[str] = ()) -> list[str]:
    """Return the erasers to measure, `HEALED` last; by default all that the engine can run.

    Raises KVMemoryError for an unknown name, UnsupportedOperationError for one that the engine cannot run.
    """
    for name in wanted:
        memory.load_eraser(name)
    return [*(wanted or (name for name in ERASERS if not ERASERS[name]().lacking(memory.engine))), HEALED]


@contextmanager
def holding(memory: Memory, messages: Messages, tools: Tools = None, without: Sequence[str] = ()) -> Iterator[Session]:
    """Open a session that has read a conversation, and delete it after the block."""
    number = next(i for i in range(len(memory.sessions()) + 1) if f"leakage-{i}" not in memory.sessions())
    session = memory.new_session(f"leakage-{number}")
    with session:
        session.prefill(messages, tools, without=without)
        yield session


@contextmanager
def erased(read: Session, targets: Sequence[str], how: str, cascade: Cascade | None = None) -> Iterator[Session]:
    """Fork a session and erase the targets from the fork one after another; delete it after the block."""
    with read.fork() as fork:
        for target in () if how == NO_ERASE else targets:
            erase(fork, target, how, cascade)
        yield fork


def erase(session: Session, target: str, how: str, cascade: Cascade | None = None) -> None:
    """Retract a target by an eraser, or by `HEALED`."""
    if how in (NO_ERASE, NEVER_SAW):
        raise KVMemoryError(f"{how!r} erases nothing.")
    session.retract(target, eraser="drop" if how == HEALED else how, cascade=cascade, reason="leakage")
    if how == HEALED:
        session.heal()
