"""The driver of the tries on real models: its tries can be trained and judged, and go on where they were."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.train_tries import BASE, TRIES
from benchmarks.train_try import BASELINES, NOTHING, STEERED, Material, measure, planned, train
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.evaluation.suites.source import Source
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.training.plan import Plan
from kv_memory.training.run import RUN
from kv_memory.training.suites import examples_of
from kv_memory.training.tasks import WorldExamples
from tests.tiny import save_tiny
from tests.training.test_command import WORDS, colours

SETTINGS = {"slots": 2, "closes": True, "tokens": 320, "lengths": (320,), "rank": 2, "suites": ("colours",)}


@pytest.fixture(scope="module")
def material() -> Material:
    form = ChatFormat(HFTokenizer(tiny_tokenizer()))
    source = Source(form, split="train")
    worlds = [WorldExamples(form).draw(Random(seed), 320) for seed in range(2)]
    held_out = list(islice(colours(replace(source, split="test")), 3))
    return Material(worlds, {"colours": list(examples_of(form, colours(source)))}, {"colours": held_out})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(WORDS)
    return str(folder)


@pytest.mark.parametrize("name", TRIES)
def test_a_try_is_a_plan_and_has_a_prediction(name: str) -> None:
    options = TRIES[name].options
    assert TRIES[name].prediction and (options is None or planned({**BASE, **options}, 200).steps == 200)


def test_material_is_the_same_when_it_is_read_again(material: Material, tmp_path: Path) -> None:
    material.save(tmp_path / "made.gz")
    assert Material.load(tmp_path / "made.gz") == material
    assert len(material.cases["colours"]) == 3


def test_a_try_is_trained_judged_and_goes_on(material: Material, model: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"text": Path(model) / "text.txt", "minutes": 0.05}
    first = train(model, material, SETTINGS, tmp_path / "try", **given)
    plan = Plan.model_validate_json((tmp_path / "try" / "plan.json").read_text())
    assert plan.steps >= first["steps"] > 0 and plan.slots == 2 and len(first["losses"]) <= 10
    again = train(model, material, SETTINGS, tmp_path / "try", **given)
    assert again["plan"] == first["plan"] and again["steps"] >= first["steps"]
    assert (tmp_path / "try" / RUN / "checkpoint.pt").exists() or first["steps"] < plan.steps

    answers = tmp_path / "answers.json"
    plain = measure(model, material, BASELINES, None, answers=answers, count=2)["colours"]
    known = json.loads(answers.read_text())
    steered = measure(model, material, STEERED, tmp_path / "try", answers=answers, count=2)["colours"]
    assert len(known) == 2 and json.loads(answers.read_text()) == known
    assert plain[NOTHING] == steered[NOTHING] and plain[NOTHING]["left"]["value"] == 1
    assert set(plain) == {NOTHING, *BASELINES} and set(steered) == {NOTHING, *STEERED}
    assert steered["steer"]["tokens"] == 2
    for share in ("10%", "25%"):
        assert steered[f"steer+influence {share}"]["tokens"] == pytest.approx(
            plain[f"influence {share}"]["tokens"], abs=1
        )
