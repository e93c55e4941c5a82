"""The command line: what it prints, and that whatever is wrong is one line and exit code 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory import Session, TokenCounter
from kv_memory.cli.app import main
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.test_session import CONVERSATION

Run = Callable[..., tuple[int, str, str]]
COLUMNS = "100"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kv-memory", *(str(arg) for arg in args)])
        monkeypatch.setenv("COLUMNS", COLUMNS)
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


def test_replay_with_another_context_length(run: Run, conversation: Path, model: Path) -> None:
    arguments = ("replay", conversation, "--retract", "c1", "--model", model, "--context-length")
    code, _, err = run(*arguments, "3")
    assert code != 0
    assert "context" in err
    code, _, err = run(*arguments, "999999")
    assert code != 0
    assert "A context_length of this model is 1 to" in err


def test_replay_with_memory_for_checkpoints(run: Run, conversation: Path, model: Path) -> None:
    code, _, err = run("replay", conversation, "--retract", "c1", "--model", model, "--checkpoint-mb", "5")
    assert code != 0
    assert "has no recurrent layers, so that it needs no checkpoints" in err


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


NAMED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "id": "u1", "content": [{"type": "text", "text": "[b]A page.", "document_id": "d1"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"c{i}", "function": {"name": "f", "arguments": {"i": i}}} for i in (1, 2)],
    },
    {"role": "tool", "tool_call_id": "c1", "id": "r1", "content": "the code is 4711"},
    {"role": "user", "id": "line\nbreak", "content": "x" * 120},
    {"role": "user", "id": "same", "content": "Once."},
    {"role": "user", "id": "same", "content": "Twice."},
    {"role": "assistant", "id": "last", "content": "4711"},
]
LISTED = {
    "s0": ("system", "Be brief."),
    "u1 s1": ("user", "[b]A page."),
    "d1 s1.doc0": ("document", "[b]A page."),
    "s2": ("assistant", "calls f, f"),
    "s2.call0": ("call", 'f({"i": 1})'),
    "c2 s2.call1": ("call", 'f({"i": 2})'),
    "c1 r1 s3": ("result", "the code is 4711"),
    "s4": ("user", "x" * 120),
    "s5": ("user", "Once."),
    "s6": ("user", "Twice."),
}
"""What can be retracted from NAMED, without a question: ids, kind and text."""


@pytest.fixture
def named(tmp_path: Path) -> Path:
    path = tmp_path / "named.json"
    path.write_text(json.dumps(NAMED))
    return path


def test_replay_without_a_target_lists_the_ids_as_json(run: Run, named: Path) -> None:
    code, out, _ = run("replay", named, "--json")
    rows = json.loads(out)["ids"]
    assert code == 0
    assert {" ".join(row["ids"]): (row["what"], row["text"]) for row in rows} == LISTED
    with_question = json.loads(run("replay", named, "--json", "--ask", "What?")[1])["ids"]
    assert [row["ids"] for row in with_question[len(rows) :]] == [["last", "s7"]]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_replay_without_a_target_shows_the_ids(
    run: Run, named: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_cli.COLUMNS", columns)
    code, out, _ = run("replay", named)
    assert code == 0
    for ids, (what, text) in LISTED.items():
        first, *others = ids.split()
        row = next(line for line in out.splitlines() if line.startswith(f"{first} "))
        assert f" {what} " in row
        assert text[:20] in row
        assert all(f" {other} " in out for other in others)
    assert "last" not in out.replace("The last answer", "")
    assert "--ask" in out
    assert all(len(line) <= int(columns) for line in out.splitlines())


def test_every_listed_id_is_accepted_and_no_other(run: Run, named: Path, model: Path) -> None:
    listed = [name for ids in LISTED for name in ids.split()]
    arguments = [part for name in listed for part in ("--retract", name)]
    code, out, err = run("replay", named, *arguments, "--model", model, "--eraser", "recompute", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["retracted"]["targets"] == listed
    for name in ("same", "last", "s7", "Be brief.", "f"):
        assert run("replay", named, "--retract", name, "--model", model)[0] == 2


def test_replay_lists_the_conversations_of_a_file(run: Run, tmp_path: Path) -> None:
    image = [{"role": "user", "content": [{"type": "image_url"}]}]
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in (CONVERSATION, image, NAMED)))
    code, out, _ = run("replay", path, "--list")
    _, first, second, more, third = out.splitlines()
    asked = NAMED[:-1]  # the last answer is given again
    tokens = [TokenCounter().count_tokens(messages) for messages in (CONVERSATION, asked)]
    assert code == 0
    assert first.split()[:4] == ["0", "5", "6", str(tokens[0])]
    assert first.endswith("What is the code?".ljust(len(first) - first.index("What")))
    assert "Message 0 has a content part of type 'image_url'" in second
    assert more.strip() == "read."
    assert third.split()[:2] == ["2", "8"]
    rows = json.loads(run("replay", path, "--list", "--json")[1])
    assert [row.get("messages") for row in rows] == [5, None, 8]
    assert [row.get("tokens") for row in rows] == [tokens[0], None, tokens[1]]
    assert "image_url" in rows[1]["error"]
    assert "Conversation 2 of 3" in run("replay", path, "--index", "2")[1]
    assert "do not go together" in run("replay", path, "--list", "--retract", "c1")[2]


def test_replay_lists_tokens_of_a_model_without_weights(run: Run, tmp_path: Path) -> None:
    path, folder = tmp_path / "many.json", tmp_path / "model"
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    path.write_text(json.dumps([{"messages": m} for m in (NAMED, [NAMED[2], called], [called])]))
    tiny_model().config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    ask = {"role": "user", "content": "What?"}
    rows = json.loads(run("replay", path, "--list", "--json", "--model", folder, "--ask", "What?")[1])
    counter = TokenCounter(folder)
    assert [row["tokens"] for row in rows] == [
        counter.count_tokens([*m, ask]) for m in (NAMED, [NAMED[2], called], [called])
    ]
    _, out, _ = run("replay", path, "--list", "--model", folder)
    assert out.splitlines()[3].split()[:4] == ["2", "1", "2", "-"]
    assert "Conversation 2 is not counted: Nothing is left to answer" in out
    assert "/no/such/model does not exist" in run("replay", path, "--list", "--model", "/no/such/model")[2]


def test_replay_reads_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(CONVERSATION).encode())))
    code, out, _ = run("replay", "-")
    assert code == 0
    assert "the code is 4711" in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no")))
    assert run("replay", "-")[2].startswith("kv-memory: Standard input is not JSON")


def test_replay_says_what_of_a_log_it_leaves_out(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"type": "summary", "summary": "x"}, {"type": "user", "uuid": "u", "message": {"content": "Hi"}}]
    path.write_text("\n".join(map(json.dumps, rows)))
    code, out, err = run("replay", path)
    assert (code, err) == (0, "kv-memory: 1 of 2 rows hold no message and are left out (summary).\n")
    assert "Hi" in out


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--json"],
        ["--retract", "nothing"],
        ["--retract", "last"],
        ["--retract", "c1", "--ask", " "],
        ["--retract", "c1", "--index", "1"],
        ["--retract", "c1", "--eraser", "magic"],
        ["--retract", "c1", "--eraser", "steer", "--model", "."],
    ],
)
def test_lists_and_errors_come_before_any_library_that_runs_models(named: Path, args: list[str]) -> None:
    code = (
        "import sys\nfrom kv_memory.cli.app import main\ntry: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "replay", str(named), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "--retract" in args else 0)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_long_conversation_shows_what_is_beside_the_span(run: Run, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"role": "user", "id": f"u{i}", "content": "x"} for i in range(30)]))
    _, out, _ = run("replay", path, "--retract", "u10", "--model", model, "--eraser", "recompute")
    shown = [line.split()[0] for line in out.splitlines() if " user " in line]
    assert shown == ["s8", "s9", "s10", "s11", "s12"]
    assert " 8 more" in out
    assert " 17 more" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--retract", "nothing"], "'nothing'"),
        (["--retract", "u1", "--ask", ""], "question is empty"),
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


def test_a_question_that_does_not_fit_is_said_before_anything_is_read(
    run: Run, conversation: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "prefill", lambda *args, **kwargs: pytest.fail("it was read"))
    code, _, err = run("replay", conversation, "--retract", "c1", "--model", model, "--ask", "x" * 700)
    assert code == 2
    assert "the model reads at most 700" in err


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "only me"}]])
def test_nothing_to_answer_is_one_line(run: Run, tmp_path: Path, model: Path, messages: Any) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(messages))
    code, _, err = run("replay", path, "--retract", "s0", "--model", model)
    assert code == 2
    assert err.count("\n") == 1
