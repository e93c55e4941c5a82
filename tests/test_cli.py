"""The command line: what it prints, and that whatever is wrong is one line and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory.cli.app import main
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.test_session import CONVERSATION

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kv-memory", *(str(arg) for arg in args)])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model(max_positions=700).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps(CONVERSATION))
    return path


def test_replay_compares_before_after_and_never_saw(run: Run, conversation: Path, model: Path) -> None:
    code, out, _ = run("replay", conversation, "--retract", "c1", "--model", model, "--eraser", "recompute", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["answers"]["after"] == result["answers"]["never_saw"]
    assert result["kl"]["erased"] < 1e-6 < result["kl"]["no_erase"]
    assert {"model", "tokens", "spans", "retracted", "eraser", "answers", "kl", "seconds"} <= set(result)
    assert set(result["seconds"]) == {"prefill", "erase", "recompute"}
    assert result["retracted"]["tokens_erased"] == len("the code is 4711")


def test_replay_with_a_trained_eraser(run: Run, conversation: Path, model: Path, tmp_path: Path) -> None:
    trained = save_lora(tiny_model(), tmp_path / "eraser")
    arguments = ("replay", conversation, "--retract", "c1", "--model", model, "--json", "--eraser", trained)
    for named, eraser in (((), "steer"), (("--eraser", "steer+influence"), "steer+influence")):
        code, out, err = run(*arguments, *named)
        assert (code, err) == (0, "")
        assert json.loads(out)["eraser"] == eraser


def test_replay_shows_the_span_map(run: Run, conversation: Path, model: Path) -> None:
    code, out, err = run("replay", conversation, "--retract", "c1", "--model", model, "--ask", "Which code?")
    assert code == 0
    assert err == ""  # the progress bar goes only to a terminal
    rows = [line for line in out.splitlines() if " c1 " in line]
    assert len(rows) == 1
    assert "░" in rows[0]
    for part in ("Which code?", "before", "after", "never saw it", "to erase", "KL from never-saw"):
        assert part in out


def test_replay_without_a_target_lists_the_ids(run: Run, conversation: Path) -> None:
    code, out, _ = run("replay", conversation)
    assert code == 0
    assert "u1" in out
    assert "c1" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--retract", "nothing"], "'nothing'"),
        (["--retract", "c1", "--eraser", "magic"], "'magic'"),
        (["--retract", "c1", "--eraser", "./magic"], "./magic is not a trained eraser"),
        (["--retract", "c1", "--eraser", "steer"], "no trained eraser of"),
        (["--retract", "c1", "--eraser", "drop", "--eraser", "shift"], "at most one name"),
        (["--retract", "c1", "--index", "7"], "--index 7"),
        (["--retract", "c1", "--model", "/no/such/model"], "/no/such/model"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, conversation: Path, model: Path, args: list[str], says: str) -> None:
    chosen = args if "--model" in args else [*args, "--model", str(model)]
    code, out, err = run("replay", conversation, *chosen)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_conversation_longer_than_the_model_reads_is_one_line(run: Run, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps([*CONVERSATION, {"role": "user", "content": "x" * 800}]))
    code, _, err = run("replay", path, "--retract", "c1", "--model", model)
    assert code == 2
    assert "the model reads at most 700" in err


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "only me"}]])
def test_nothing_to_answer_is_one_line(run: Run, tmp_path: Path, model: Path, messages: Any) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(messages))
    code, _, err = run("replay", path, "--retract", "s0", "--model", model)
    assert code == 2
    assert err.count("\n") == 1
