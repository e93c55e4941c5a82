"""kill -9 at any step: the log opens, is whole, and nothing that it acknowledged is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kv_memory.audit
from kv_memory.audit import AuditLog, Outcome
from tests.audit.parts import MESSAGES, ended, found, in_child, redaction, retract

KILLED = -signal.SIGKILL
CODE = str(Path(kv_memory.audit.__file__).parent)
Say = Callable[[str], object]


def work(log: AuditLog, session: str, say: Say) -> None:
    """A retraction, one that fails, and what else is written; says what it knows to be on record."""
    with log.retraction(session=session, targets=["c1"], redactions=[redaction(1)], by="owner", reason="wrong") as it:
        say("intent")
        it.outcome = Outcome("exact", "recompute", tokens_erased=4, tokens_recomputed=30)
        say("erased")
    say("outcome")
    try:
        with log.retraction(session=session, targets=["c2"], redactions=[redaction(2)]):
            say("intent")
            raise MemoryError
    except MemoryError:
        say("outcome")
    log.refusal(session=session, targets=["c1"], by="tool")
    say("refusal")
    log.healed(session, it.id)
    say("healed")
    log.undone(session, it.id)
    say("undone")


def killed(path: Path, session: str, arm: Callable[[AuditLog], None]) -> list[str]:
    """Do the work in a process that `arm` kills in the middle: what it had said by then, "end" when it came through."""
    told, tell = os.pipe()

    def child() -> None:
        log = AuditLog(path)
        arm(log)
        work(log, session, lambda what: os.write(tell, what.encode() + b"\n"))

    pid = in_child(child)
    os.close(tell)
    code = ended(pid)
    with os.fdopen(told, "rb") as said:
        lines = said.read().decode().split()
    assert code in (0, KILLED)
    return [*lines, "end"] if code == 0 else lines


def at_line(number: int) -> Callable[[Any], None]:
    """Kill after `number` lines of the audit package, and of the work that it records."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(CODE) and frame.f_code is not work.__code__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return lambda _: sys.settrace(trace)


def at_step(number: int) -> Callable[[AuditLog], None]:
    """Kill after `number` instructions of SQLite."""
    left = number

    def count() -> int:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def arm(log: AuditLog) -> None:
        with log._store.reading() as connection:
            connection.set_progress_handler(count, 1)

    return arm


def check(path: Path, session: str, said: list[str]) -> None:
    log = AuditLog(path)
    assert log.verify() == []
    rows = log.entries(session)
    kinds = [row.kind for row in rows]
    for kind in ("intent", "outcome", "refusal", "healed", "undone"):
        assert said.count(kind) <= kinds.count(kind) <= said.count(kind) + 1, (said, kinds)
    intents = {row.retraction for row in rows if row.kind == "intent"}
    without = intents - {row.retraction for row in rows if row.kind == "outcome"}
    assert {row.retraction for row in log.unfinished()} == without
    undone = {row.retraction for row in rows if row.kind == "undone"}
    wished = [
        redaction
        for row in rows
        if row.kind == "intent" and row.retraction not in undone
        for redaction in row.redactions
    ]
    assert log.retracted(session) == wished
    assert len(found(log, session, MESSAGES)) == len(wished)
    assert set(log.close_unfinished()) == without
    assert not (log.unfinished() or log.close_unfinished() or log.verify())
    assert log.retracted(session) == wished  # interrupted or not, it is to be left out
    log.close()


@pytest.mark.parametrize(("steps", "stride"), [(at_line, 7), (at_step, 10)], ids=["lines", "instructions"])
def test_kill_at_any_step_of_a_retraction(path: Path, steps: Callable[[int], Any], stride: int) -> None:
    number, before, said, ways = 1, 0, list[str](), set[tuple[str, ...]]()
    while "end" not in said:
        session = f"killed at {number}"
        said = killed(path, session, steps(number))
        check(path, session, said)
        ways.add(tuple(said))
        number += stride if len(said) < 3 else 4 * stride  # the first retraction step by step
        log = AuditLog(path)
        rows = log.entries()
        assert len(rows) >= before  # what was written before this crash is still there
        before = len(rows)
        log.close()
    assert len(ways) >= 8  # between any two of what it says


def test_kill_between_intent_and_erasure(path: Path) -> None:
    def child() -> None:
        with AuditLog(path).retraction(session="s", targets=["c1"], redactions=[redaction(1)]):
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(in_child(child)) == KILLED
    check(path, "s", ["intent"])


@pytest.mark.parametrize("number", range(1, 400, 11))
def test_kill_while_the_log_is_made(path: Path, number: int) -> None:
    def child() -> None:
        at_line(number)(None)
        AuditLog(path)

    assert ended(in_child(child)) in (0, KILLED)
    log = AuditLog(path)
    retract(log)
    assert log.verify() == []
    assert len(log.entries()) == 2
    log.close()


def test_a_write_that_stopped_at_any_byte(path: Path, tmp_path: Path) -> None:
    """As when the process dies inside a commit: of the write-ahead file only the beginning is there."""
    log = AuditLog(path)
    retract(log, 0, session="earlier")
    log.close()
    log = AuditLog(path)
    work(log, "s", lambda _: None)
    data, ahead = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    rows = log.entries()
    numbers = set()
    for length in [*range(0, len(ahead), 1511), len(ahead)]:
        other = tmp_path / f"{length}.db"
        other.write_bytes(data)
        other.with_name(f"{other.name}-wal").write_bytes(ahead[:length])
        other.with_name(f"{other.name}.key").symlink_to(f"{path.name}.key")
        after = AuditLog(other)
        assert after.verify() == []
        found = after.entries()
        assert found == rows[: len(found)]
        numbers.add(len(found))
        after.close()
    assert numbers == set(range(2, len(rows) + 1))
    log.close()
