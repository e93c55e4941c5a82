"""Threads and processes write one chain; a process that lives keeps its intents."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

from kv_memory.audit import AuditLog, process, queries
from tests.audit.parts import ended, in_child, redaction, retract

WORKERS, EACH = 4, 12


def check(path: Path, retractions: int) -> None:
    log = AuditLog(path)
    assert log.verify() == []
    assert [row.number for row in log.entries()] == list(range(1, 2 * retractions + 1))
    assert log.unfinished() == []
    log.close()


@pytest.mark.parametrize("shared", [True, False])
def test_threads(path: Path, shared: bool) -> None:
    one = AuditLog(path)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            log = one if shared else AuditLog(path)
            for _ in range(EACH):
                retract(log, session=f"s{number}")
            if not shared:
                log.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    one.close()
    check(path, WORKERS * EACH)


def test_processes_that_begin_the_log_together(path: Path) -> None:
    ready, go = os.pipe()

    def work() -> None:
        os.close(go)
        os.read(ready, 1)  # until the parent closes its end
        log = AuditLog(path)
        for _ in range(EACH):
            retract(log)
        log.close()

    children = [in_child(work) for _ in range(WORKERS)]
    os.close(go)
    assert [ended(child) for child in children] == [0] * WORKERS
    os.close(ready)
    check(path, WORKERS * EACH)
    assert len(list(path.parent.glob("*.key*"))) == 1


def test_a_log_that_is_open_while_its_process_forks(log: AuditLog, path: Path) -> None:
    retract(log)

    def work() -> None:
        for _ in range(EACH):
            retract(log)

    children = [in_child(work) for _ in range(2)]
    for _ in range(EACH):
        retract(log)
    assert [ended(child) for child in children] == [0, 0]
    assert len({row.pid for row in log.entries()}) == 3
    log.close()
    check(path, 1 + 3 * EACH)


@pytest.mark.parametrize("writer", ["itself", "another", "child"])
def test_what_is_retracted_is_known_at_once_whoever_wrote_it(log: AuditLog, path: Path, writer: str) -> None:
    retract(log)
    assert log.retracted("s") == list(log.seal([redaction(1)]))
    if writer == "child":
        assert ended(in_child(lambda: retract(log, 2))) == 0
    elif writer == "another":
        retract(other := AuditLog(path), 2)
        other.close()
    else:
        retract(log, 2)
    assert log.retracted("s") == list(log.seal([redaction(1), redaction(2)]))


def test_what_is_written_while_a_log_is_closed_is_known_when_it_is_opened_again(log: AuditLog, path: Path) -> None:
    retract(log)
    reader = AuditLog(path)
    reader.close()
    assert len(reader.retracted("s")) == 1
    reader.close()
    retract(log, 2)
    assert len(reader.retracted("s")) == 2
    reader.close()


def test_a_forked_child_knows_what_its_parent_retracts_later(log: AuditLog) -> None:
    retract(log)
    log.retracted("s")
    ready, go = os.pipe()

    def work() -> None:
        os.close(go)
        os.read(ready, 1)  # until the parent closes its end
        assert len(log.retracted("s")) == 2

    child = in_child(work)
    retract(log, 2)
    os.close(go)
    assert ended(child) == 0
    os.close(ready)


def test_the_rows_are_read_again_only_after_a_change(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    retract(log)
    logged, read = queries.logged, []

    def counted(connection: sqlite3.Connection, session: str) -> list[queries.Logged]:
        read.append(session)
        return logged(connection, session)

    monkeypatch.setattr(queries, "logged", counted)
    for _ in range(3):
        log.retracted("s")
        log.retracted("t")
    assert read == ["s", "t"]
    retract(log, 2)
    log.retracted("s")
    assert read == ["s", "t", "s"]


def test_only_the_intents_of_dead_processes_are_closed(log: AuditLog) -> None:
    begun, tell = os.pipe()

    def work() -> None:
        with log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]) as it:
            log.also("s", it.id, [redaction(2)])
            os.write(tell, b"x")
            signal.pause()

    child = in_child(work)
    assert os.read(begun, 1) == b"x"
    with log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]) as own:
        assert log.close_unfinished() == []
        assert len(log.unfinished()) == 3
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, though its parent has not asked yet
        assert len(log.close_unfinished()) == 1
        assert [row.retraction for row in log.unfinished()] == [own.id]
    os.waitpid(child, 0)
    assert [row.status for row in log.entries(session="s") if row.kind == "outcome"] == ["interrupted", "unknown"]
    assert not (log.close_unfinished() or log.unfinished() or log.verify())


def test_which_processes_are_gone() -> None:
    pid, token = process.current()
    boot, space, start = token.split("/", 2)
    assert not process.is_gone(pid, token)
    assert process.is_gone(pid, f"{boot}/{space}/{start}0")  # an earlier process had this pid
    assert process.is_gone(pid, f"before/{space}/{start}")  # the machine was started anew
    assert not process.is_gone(pid, f"{boot}/elsewhere/{start}")  # in a container that cannot be seen from here
    assert not process.is_gone(pid, f"{boot}/{space}/")
    child = in_child(lambda: None)
    ended(child)
    assert process.is_gone(child, token)
