"""`kv-memory eval leakage`: what it writes, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kv_memory.cli.app import main
from kv_memory.evaluation.leakage import echoes, injections, measure, successive
from kv_memory.evaluation.leakage.canaries import Leakage, Seen, summarise
from kv_memory.evaluation.leakage.echoes import CASCADES, Echoed
from kv_memory.evaluation.leakage.injections import Obeyed
from kv_memory.evaluation.leakage.measure import Measurement
from kv_memory.evaluation.leakage.plan import Plan
from kv_memory.evaluation.leakage.record import Result
from kv_memory.evaluation.leakage.targets import judge
from kv_memory.evaluation.leakage.work import here
from kv_memory.sessions.memory import Memory
from tests.tiny import save_tiny, tiny_engine

HOWS = ("no erase", "drop", "healed", "never-saw")


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["kv-memory", "eval", "leakage", *(str(arg) for arg in args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def seen() -> dict[str, Seen]:
    return {how: Seen((-1.0, -2.0, -3.0), (True, False), ("yes",)) for how in HOWS}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that runs a model long is replaced by what it would return."""
    echoed = Echoed(
        {cascade: seen() for cascade in CASCADES}, {"drop": True, "healed": True}, dict.fromkeys(HOWS, (1, 2))
    )
    monkeypatch.setattr(measure, "look_each", lambda *_: seen())
    monkeypatch.setattr(successive, "look_after", lambda *_: {n: seen() for n in successive.COUNTS})
    monkeypatch.setattr(echoes, "look_at_echo", lambda *_: echoed)
    monkeypatch.setattr(injections, "order", lambda *_: Obeyed("x", dict.fromkeys(HOWS, "x")))


@pytest.mark.usefixtures("quick")
def test_the_result_is_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KV_MEMORY_DATA", raising=False)
    model, out = save_tiny(tmp_path / "model"), tmp_path / "out.json"
    assert run(monkeypatch, "--model", model, "--eraser", "drop", "--probes", 1, "--out", out) == 0
    written = json.loads(out.read_text())
    result = Result.model_validate(written)
    assert {"hardware", "python", "versions", "seed"} == set(written["environment"])
    assert set(result.canaries) == set(HOWS)
    assert set(result.successive) == {1, 5, 20}
    said = capsys.readouterr().out
    for part in (
        "Targets",
        "One erasure",
        "first of 20 erasures",
        "tool arguments, cascade",
        "no data was given",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--eraser", "magic"], "'magic'"),
        (["--eraser", "steer"], "no trained eraser of"),
        (["--data", "/no/such/folder"], "has no injecagent"),
        (["--out", "/no/such/folder/x.json", "--eraser", "drop"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    monkeypatch.delenv("KV_MEMORY_DATA", raising=False)
    assert run(monkeypatch, "--model", save_tiny(tmp_path / "model"), *args) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]  # on a slow machine a progress bar was above it
    assert last.startswith("kv-memory: ")
    assert says in last


def test_targets_are_met_or_missed_by_the_figures(quick: None) -> None:
    def row(*scores: float, hit: bool = False) -> Seen:
        return Seen((*scores, *range(-99, -9)), (hit,))

    rows = {"recompute": row(-5.001), "healed": row(-5.0, hit=True), "steer": row(-1.0), "never-saw": row(-5.0)}
    few = {how: rows[how] for how in ("recompute", "never-saw")}
    memory = Memory(tiny_engine())
    plan = Plan(probes=1)
    made = Measurement(memory.format, "tiny", here(memory), ("drop",), plan, lambda *_: None).run()
    told = {"canaries": summarise([rows]), "successive": {1: summarise([rows]), 5: summarise([few])}}
    met = {target.name: target.met for target in judge(made.model_copy(update=told))}
    assert met["recompute, one erasure: as never-saw"]
    assert met["recompute, 5 erasures: as never-saw"]
    assert not met["healed, one erasure: as never-saw"]
    assert met["steer: exposure within 1 bit of never-saw's for 95% of canaries"]
    assert not met["steer: TPR at 1 % FPR at most 2%"]


def test_a_summary_compares_with_never_saw() -> None:
    row = {"drop": Seen((-1.0, -9.0, -9.0, -9.0), (True,)), "never-saw": Seen((-9.0, -1.0, -2.0, -3.0), (False,))}
    found: dict[str, Leakage] = summarise([row])
    assert (found["drop"].exposure, found["never-saw"].exposure) == (2.0, 0.0)
    assert (found["drop"].within_a_bit.value, found["never-saw"].within_a_bit.value) == (0.0, 1.0)
    assert (found["drop"].attack.value, found["drop"].extracted.value) == (1.0, 1.0)
