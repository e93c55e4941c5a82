"""`kv-memory eval SUITE`: what it prints and writes, how a run goes on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kv_memory.cli.bench import ALL, NAMES
from kv_memory.erasers import ERASERS
from kv_memory.evaluation import trial
from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, OTHER_DTYPE, REREAD
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites import registry
from kv_memory.evaluation.suites.registry import SUITES
from kv_memory.evaluation.suites.source import Source
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.test_cli import model, run

__all__ = ["model", "run"]  # fixtures

Run = Callable[..., tuple[int, str, str]]


def made_up(source: Source) -> Iterator[Case]:
    """Yield questions about a code, at two distances, in conversations of the split that is reported."""
    for number in range(4):
        code, after = source.rng(number).randint(100, 999), 60 * (number % 2)
        messages = [
            {"role": "user", "content": f"Keep code {number}." + " x" * after},
            {"role": "assistant", "content": f"It is {code}."},
            {"role": "user", "content": "Thanks." + "!" * after},
        ]
        case = Transcript(source.form, messages).question(
            "[bold]code", ["s1"], "Which?", named="the code", answer="none", wrong=(str(code),), suite="distance",
            name=str(number), conversation="ag"[number // 2], groups={"distance": after},
        )  # fmt: skip
        if source.fits(case):
            yield case


@pytest.fixture(autouse=True)
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "distance", made_up)
    monkeypatch.setattr(trial, "ANSWER_TOKENS", 4)  # a tiny model's answer never ends
    monkeypatch.delenv("KV_MEMORY_DATA", raising=False)


def test_every_suite_has_a_command() -> None:
    assert set(SUITES) == set(NAMES) - {ALL}


def test_figures_are_printed_and_written(run: Run, model: Path, tmp_path: Path) -> None:
    out, html = tmp_path / "rows.jsonl", tmp_path / "page.html"
    erasers = ("--eraser", "shift+influence 25%", "--eraser", "recompute", "--eraser", "drop")
    given = ("eval", "distance", "--model", model, "--longest", 600, "--out", out, "--html", html, *erasers)
    code, shown, err = run(*given, "--other-dtype", "bfloat16")
    assert (code, err) == (0, "")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    for part in (
        "4 cases of 2 conversations",
        "What is left; better and worse than shift+influence 25%",
        "0.000 (0.00",
    ):
        assert part in shown
    assert {line.split(" ")[1] for line in lines if line.startswith(" recompute")} == {"recompute"}
    assert "shift+influence 25%" in html.read_text()
    first, *rows = map(json.loads, out.read_text().splitlines())
    assert (first["dtype"], first["other_dtype"], first["longest"]) == ("float32", "bfloat16", 600)
    base = {NEVER_SAW, OTHER_CHUNKS, OTHER_DTYPE, NO_ERASE, CORRECTION, REREAD}
    assert {row["treatment"] for row in rows} == base | {"shift+influence 25%", "recompute", "drop"}


def test_a_run_goes_on_from_its_file_and_prints_json(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    given = ("eval", "distance", "--model", model, "--longest", 600, "--eraser", "drop", "--json")
    whole = json.loads(run(*given)[1])
    run(*given, "--cases", 2, "--out", out)
    begun = out.read_text()
    found = json.loads(run(*given, "--out", out)[1])
    assert out.read_text().startswith(begun)
    assert untimed(found) == untimed(whole)
    assert whole["reference"] == "drop"
    assert [(group["by"], group["value"], group["cases"]) for group in whole["groups"]] == [
        ("", "", 4),
        ("distance", 0, 2),
        ("distance", 60, 2),
    ]
    kept = out.read_text()
    code, _, err = run(*given, "--out", out, "--seed", 1)
    assert code == 2
    assert "has rows of seed 0, not 1; give another --out" in err
    assert out.read_text() == kept


def untimed(found: dict[str, Any]) -> Any:
    """Return a printed result without what a clock says."""
    text = json.dumps({**found, "run": None})
    return json.loads(
        text, object_hook=lambda part: {k: v for k, v in part.items() if k not in ("seconds", "relative")}
    )


def test_by_default_all_that_the_model_can_run_is_measured(run: Run, model: Path) -> None:
    code, shown, _ = run("eval", "distance", "--model", model, "--longest", 600, "--cases", 1, "--json")
    assert code == 0
    found = json.loads(shown)
    base = {NEVER_SAW, OTHER_CHUNKS, NO_ERASE, CORRECTION, REREAD}
    assert set(found["groups"][0]["treatments"]) - base == {name for name in ERASERS if "steer" not in name}
    assert found["reference"] == "shift+influence"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--eraser", "magic"], "There is no eraser 'magic'"),
        (["--eraser", "drop 25%"], "takes no budget"),
        (["--eraser", "steer"], "no trained eraser of"),
        (["--eraser", "./a", "--eraser", "./b"], "at most one trained eraser"),
        (["--longest", 100000], "reads at most 700 tokens; give --longest 700 or less"),
        (["--longest", 20], "has no case of at most 20 tokens"),
        (["--data", "/no/such/folder"], "There is no folder /no/such/folder"),
        (["--html", "/no/such/folder/page.html"], "/no/such/folder/page.html cannot be written"),
        (["--out", "/no/such/folder/rows.jsonl"], "/no/such/folder/rows.jsonl cannot be written"),
        (["--dtype", "float99"], "float99"),
        (["--model", "/no/such/model"], "/no/such/model"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path, args: list[object], says: str) -> None:
    chosen = args if "--model" in args else [*args, "--model", save_small(tmp_path)]
    code, out, err = run("eval", "distance", *chosen)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def save_small(folder: Path) -> Path:
    tiny_model(max_positions=700).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_suite_without_its_data_is_one_line_before_anything_is_measured(
    run: Run, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    code, _, err = run("eval", "documents", "--model", model, "--out", out)
    assert code == 2
    assert "give --data or set KV_MEMORY_DATA" in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_all_suites_are_measured(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SUITES", {name: partial(named, name) for name in ("documents", "copy")})
    given = ("eval", "all", "--model", model, "--longest", 600, "--cases", 2, "--eraser", "drop", "--json")
    code, shown, _ = run(*given)
    assert code == 0
    assert {(group["suite"], group["cases"]) for group in json.loads(shown)["groups"] if group["by"] == ""} == {
        ("documents", 2),
        ("copy", 2),
    }


def named(suite: str, source: Source) -> Iterator[Case]:
    return (replace(case, suite=suite) for case in made_up(source))
