"""`kv-memory audit`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kv_memory.audit import AuditLog
from kv_memory.cli.app import main
from tests.audit.parts import KEY, retract, story, tamper

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kv-memory", "audit", *(str(arg) for arg in args), "--log", str(path)])
        monkeypatch.setenv("COLUMNS", "140")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_list(log: AuditLog, run: Run) -> None:
    story(log)
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 10
    for part in ("intent", "refused, RefusedError", "c1: wrong", "exact, recompute", "healed", "undone", "spoofed"):
        assert part in out
    code, out, _ = run("list", "--session", "other session", "--limit", "1", "--json")
    [row] = json.loads(out)["rows"]
    assert (code, row["kind"], row["number"]) == (0, "outcome", 9)


def test_show(log: AuditLog, run: Run) -> None:
    shown = retract(log, 2)
    other = retract(log, 1)
    log.undone("s", shown, by="user", reason="it was right")
    code, out, err = run("show", shown)
    assert (code, err) == (0, "")
    for part in ("row 1", "row 2", "row 5", "intent", "undone", "it was right", "tool_call_id c2", "fidelity"):
        assert part in out
    assert other not in out
    assert [row["kind"] for row in json.loads(run("show", shown, "--json")[1])["rows"]] == [
        *("intent", "outcome", "undone"),
    ]
    code, out, err = run("show", "nothing")
    assert (code, out) == (2, "")
    assert "no retraction 'nothing'" in err


def test_verify(log: AuditLog, run: Run, path: Path) -> None:
    story(log)
    assert run("verify") == (0, "The log is as it was written.\n", "")
    assert json.loads(run("verify", "--json")[1]) == {"problems": []}
    log.close()
    tamper(path, ("UPDATE rows SET reason = 'because' WHERE number = 3", ()))
    text = "Row 3 does not match its hash: it was changed, or the hash of the row before it."
    assert run("verify") == (1, f"{text}\n", "")
    code, out, _ = run("verify", "--json")
    assert (code, json.loads(out)) == (1, {"problems": [{"row": 3, "text": text}]})


def test_verify_with_a_key_kept_elsewhere(run: Run, path: Path, tmp_path: Path) -> None:
    retract(AuditLog(path, key=KEY))
    key = tmp_path / "safe"
    key.write_text(KEY.hex() + "\n")
    key.chmod(0o600)
    assert run("verify", "--key", key)[0] == 0
    code, out, err = run("verify")
    assert (code, out) == (2, "")
    assert "is missing" in err


def test_no_log_is_one_line_and_none_is_made(run: Run, path: Path) -> None:
    for command in (["list"], ["show", "x"], ["verify"]):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert "There is no audit log" in err
    assert not path.exists()


def test_what_others_wrote_does_not_steer_the_terminal(log: AuditLog, run: Run) -> None:
    odd = "\x1b[31m[bold]red\x07"
    with log.retraction(session=odd, targets=[odd], redactions=[], by=odd, reason=odd) as it:
        pass
    for out in (run("list")[1], run("show", it.id)[1]):
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]red" in out
