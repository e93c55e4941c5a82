"""kill -9 at any step of a session's retraction: the next process finds it, prefills everything again and loses
nothing."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kv_memory
from kv_memory import AuditLog, Memory
from tests.audit.parts import ended, in_child
from tests.test_session import CONVERSATION, SECRET
from tests.tiny import tiny_engine

ANSWER = "It is 4711."
MORE = [*CONVERSATION, {"role": "assistant", "id": "a1", "content": ANSWER}]
WISHED = (len(SECRET), len(ANSWER))
"""Tokens that each intent wants left out."""
STEPS = {"retracting", "retraction", "branch", "drop", "log", "store"}
"""The files in whose lines a retraction is made and written down."""
KILLS = 24
ENGINE = tiny_engine()


def read(file: Path) -> tuple[Memory, Any]:
    memory = Memory(ENGINE, audit=file, heal="never")
    return memory, memory.session("s")


def killed(file: Path, number: int) -> int:
    """Retract in a process that dies at this line of the work; its exit code. The lines that it ran are in a file."""
    lines, folder = 0, str(Path(kv_memory.__file__).parent)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        path = Path(frame.f_code.co_filename)
        if not str(path).startswith(folder) or path.stem not in STEPS:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def child() -> None:
        session = read(file)[1]
        session.prefill(MORE)
        sys.settrace(trace)
        session.retract("c1", eraser="drop", cascade="retract", reason="wrong")
        sys.settrace(None)
        file.with_suffix(".lines").write_text(str(lines))

    return ended(in_child(child))


def test_killed_at_any_line_it_is_found_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)  # the cascade takes the answer along
    assert killed(tmp_path / "whole.sqlite", 0) == 0
    total = int((tmp_path / "whole.lines").read_text())
    ways = set[tuple[str, ...]]()
    for number in [*range(1, total, total // KILLS), total]:
        file = tmp_path / f"{number}.sqlite"
        assert killed(file, number) == -signal.SIGKILL
        log = AuditLog(file)
        assert log.verify() == []
        kinds = tuple(row.kind for row in log.entries())
        assert bool(log.unfinished()) == ("intent" in kinds and "outcome" not in kinds)
        log.close()
        memory, session = read(file)
        usage = session.prefill(MORE)
        assert usage.reused == 0  # that cache is gone
        assert usage.left_out == sum(WISHED[: kinds.count("intent")])
        assert memory.audit is not None
        assert memory.audit.unfinished() == []
        memory.delete_session("s")
        ways.add(kinds)
    assert ways == {(), ("intent",), ("intent", "intent"), ("intent", "intent", "outcome")}
