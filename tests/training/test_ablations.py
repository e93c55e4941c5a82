"""The driver of the ablations: its tries can be trained, and a training that was killed goes on with the same plan."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.eraser_ablations import BASE, TRIES, Try, train
from benchmarks.eraser_answers import ERASERS, Row, evaluate, summary
from kv_memory.evaluation.baselines import NO_ERASE
from kv_memory.synthetic.drafts import KINDS
from kv_memory.training.plan import Plan
from kv_memory.training.run import RUN
from tests.tiny import save_tiny
from tests.training.test_command import WORDS


def on_tiny(folder: Path, minutes: float) -> argparse.Namespace:
    """The command's options for a small model and text, which are written there."""
    model = save_tiny(folder / "model")
    (model / "text.txt").write_text(WORDS)
    return argparse.Namespace(
        model=str(model),
        text=model / "text.txt",
        minutes=minutes,
        tokens=320,
        train_lengths=[320],
        seed=3,
        workers=0,
        start=None,
    )


@pytest.mark.parametrize("name", TRIES)
def test_a_try_is_a_plan(name: str) -> None:
    assert Plan.of(**{**BASE, **TRIES[name].options}) and TRIES[name].prediction


def test_a_try_is_trained_for_its_minutes_and_goes_on_where_it_was(tmp_path: Path) -> None:
    options = on_tiny(tmp_path, minutes=0.02)
    name = "near drop, seeing the suffix, repair"
    first = train(name, tmp_path / "try", options)
    plan = Plan.model_validate_json((tmp_path / "try" / "plan.json").read_text())
    assert (plan.repair, plan.sees_suffix, plan.seed, plan.steps) == (8, True, 3, first["steps"])
    record = json.loads((tmp_path / "try" / "eraser.json").read_text())
    assert record["sees_suffix"] and record["recipe"]["repair"] == 8
    (tmp_path / "try" / "eraser.json").unlink()  # as if killed before it was written
    lines = (tmp_path / "try" / RUN / "log.jsonl").read_text()
    assert train(name, tmp_path / "try", options)["loss"] == first["loss"]
    assert (tmp_path / "try" / RUN / "log.jsonl").read_text() == lines
    assert (tmp_path / "try" / "eraser.json").exists()


def test_figures_are_by_class() -> None:
    good, bad = (True, True, 0.1), (False, False, 1.0)
    rows = [
        Row("keep", True, {NO_ERASE: bad, **dict.fromkeys(ERASERS, good)}),
        Row("keep", False, {NO_ERASE: bad, **dict.fromkeys(ERASERS, good), "steer": bad}),
    ]
    found = summary(rows)
    assert list(found) == ["keep"] and set(found) <= set(KINDS)
    row = found["keep"]
    assert (row["questions"], row["never-saw"]["exact"]) == (2, 0.5)
    assert (row["drop"]["agreement"]["value"], row["steer"]["agreement"]["value"]) == (1.0, 0.5)
    assert row["drop"]["residual"]["value"] == pytest.approx(0.1)
    assert row["steer"]["residual"]["value"] == pytest.approx(0.55)


def test_questions_are_judged_as_the_erasers_leave_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRIES, "closed", Try("", {"slots": 4, "closes": True}))
    options = on_tiny(tmp_path, minutes=0.01)
    train("closed", tmp_path / "try", options)
    found = evaluate(options.model, tmp_path / "try", lengths=[400], questions=1000, tokens=800, minutes=0.05)["400"]
    assert set(found) <= set(KINDS) and found["keep"]["questions"] > 1
    for row in found.values():
        assert row[NO_ERASE]["residual"]["value"] == pytest.approx(1)
        assert 0 < row["shift+influence 32"]["residual"]["value"] != row["steer"]["residual"]["value"]
