"""A memory with an audit log: what was retracted stays retracted in the next process, and each step is written down."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kv_memory import AuditLog, Memory
from kv_memory.audit import AuditError
from kv_memory.calibration.decide import calibrated
from kv_memory.errors import RefusedError
from kv_memory.sessions.retraction_run import RetractionRun
from tests.audit.parts import ended, in_child
from tests.policy import figures
from tests.test_session import CONVERSATION, SECRET
from tests.tiny import tiny_engine

MORE = [*CONVERSATION, {"role": "assistant", "id": "a1", "content": "It is 4711."}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.sqlite"


def memory(file: Path, **options: Any) -> Memory:
    return Memory(tiny_engine(), audit=file, **{"heal": "never", **options})


def kinds(found: Memory) -> list[tuple[str, str | None]]:
    assert found.audit is not None
    assert found.audit.verify() == []
    return [(row.kind, row.status) for row in found.audit.entries()]


def left_out(found: Memory, session: str = "s") -> int:
    return found.session(session).prefill(CONVERSATION).left_out


def test_what_was_retracted_stays_so_in_the_next_process(file: Path) -> None:
    first = memory(file)
    session = first.session("s")
    session.prefill(CONVERSATION)
    report = session.retract("c1", reason="stale: a newer one came", eraser="drop")
    assert kinds(first) == [("intent", None), ("outcome", "approximate")]
    again = memory(file)
    assert left_out(again) == len(SECRET)
    assert left_out(again, "another") == 0
    again.session("s").undo(report)
    assert left_out(memory(file)) == 0


def test_a_fork_takes_along_what_is_retracted(file: Path) -> None:
    first = memory(file)
    first.session("s").prefill(CONVERSATION, without=["c1"])
    first.session("s").fork("f")
    assert left_out(memory(file), "f") > 0


def test_a_fork_that_cannot_be_logged_leaves_its_id_free(file: Path) -> None:
    first = memory(file)
    session = first.session("s")
    session.prefill(CONVERSATION, without=["c1"])
    with mock.patch.object(AuditLog, "inherited", side_effect=AuditError("full")), pytest.raises(AuditError):
        session.fork("f")
    assert first.sessions() == ["s"]
    session.fork("f")
    assert left_out(first, "f") > 0


def test_a_killed_retraction_is_found_and_counts(file: Path) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def child() -> None:
        session = memory(file).session("s")
        session.prefill(CONVERSATION)
        with mock.patch.object(RetractionRun, "_erase", die):
            session.retract("c1")

    assert ended(in_child(child)) == -signal.SIGKILL
    log = AuditLog(file)
    assert [row.kind for row in log.unfinished()] == ["intent"]
    log.close()
    after = memory(file)
    assert left_out(after) > 0
    assert kinds(after) == [("intent", None), ("outcome", "interrupted")]


def test_a_retraction_that_waits_has_its_outcome_when_it_is_made(file: Path) -> None:
    found = memory(file)
    session = found.session("s")
    stream = session.stream(CONVERSATION, max_tokens=5, temperature=1.0, seed=2)
    next(iter(stream))
    assert session.retract("c1", eraser="drop").status == "queued"
    stream.finish()
    session.prefill(CONVERSATION)
    assert kinds(found)[-1] == ("outcome", "approximate")
    assert found.audit is not None
    assert found.audit.unfinished() == []


def test_a_report_that_waits_says_so_until_it_is_made(file: Path) -> None:
    session = memory(file).session("s")
    stream = session.stream(CONVERSATION, max_tokens=5, temperature=1.0, seed=2)
    next(iter(stream))
    report = session.retract("c1", eraser="drop")
    assert session.report(report.id).status == "queued"
    stream.finish()
    now = session.report(report.id)
    assert (now.status, now.eraser, now.tokens_erased) == ("approximate", "drop", len(SECRET))
    assert {span.status for span in now.spans} == {"approximate"}
    session.heal()
    assert session.report(report.id).status == "exact"


KNOWN = figures.measured(figures.left("influence 32", 0.08))
CALIBRATED = calibrated("influence 32", KNOWN.influence)


@pytest.mark.parametrize(
    ("eraser", "left"),
    [("recompute", 0.0), pytest.param(CALIBRATED, 0.04, id="calibrated-0.04"), ("drop", None)],
)
def test_the_outcome_has_the_fidelity_that_was_measured(file: Path, eraser: Any, left: float | None) -> None:
    found = memory(file, calibration=KNOWN)
    found.session("s").prefill(CONVERSATION)
    found.session("s").retract("c1", eraser=eraser)
    assert found.audit is not None
    assert [row.fidelity for row in found.audit.entries()] == [None, left]


def test_healing_and_undoing_are_written_down(file: Path) -> None:
    found = memory(file)
    session = found.session("s")
    session.prefill(CONVERSATION)
    report = session.retract("c1", eraser="drop")
    session.heal()
    session.undo(report)
    assert [kind for kind, _ in kinds(found)] == ["intent", "outcome", "healed", "undone"]


def test_a_cascade_is_written_down_before_it_is_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)
    found = memory(file)
    session = found.session("s")
    session.prefill(MORE)
    session.retract("c1", cascade="retract")
    assert [kind for kind, _ in kinds(found)] == ["intent", "intent", "outcome"]
    assert memory(file).session("s").prefill(MORE).left_out > len(SECRET)


def test_a_refusal_is_a_row_and_changes_nothing(file: Path) -> None:
    found = memory(file)
    session = found.session("s")
    session.prefill(CONVERSATION)
    with pytest.raises(RefusedError, match="'tool' may not retract the user span"):
        session.retract("u1", by="tool")
    assert [kind for kind, _ in kinds(found)] == ["refusal"]
    assert left_out(found) == 0


def test_what_is_only_asked_about_is_no_retraction(file: Path) -> None:
    found = memory(file)
    session = found.session("s")
    session.prefill(CONVERSATION)
    session.retract("c1", dry_run=True)
    with session.without("c1"):
        pass
    assert kinds(found) == []


def test_a_retraction_that_cannot_be_written_down_is_not_made(file: Path) -> None:
    found = memory(file)
    session = found.session("s")
    session.prefill(CONVERSATION)
    assert found.audit is not None
    found.audit.close()
    file.write_bytes(b"no database " * 100)
    with pytest.raises(AuditError):
        session.retract("c1")
    assert session.reports == []
    assert SECRET in found.engine.tokenizer.decode(found.engine.tokens(session.branches.latest.seq))  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _no_leftovers(file: Path) -> Iterator[None]:
    yield
    if file.exists():
        assert SECRET.encode() not in file.read_bytes()
