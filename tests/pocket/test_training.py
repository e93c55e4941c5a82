"""Batches are reproducible, answers are where the loss looks, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from pocket_training.batches import ANSWER, NOTHING, Batches, Stage, encode_sample, positions
from pocket_training.corpus import RealText
from pocket_training.drills import call_sample, spelling_sample
from pocket_training.samples import Sample, make_sample
from pocket_training.train import Training, architecture, rate_at

STAGES = (Stage(20, {256: 1.0}, 512), Stage(10, {256: 0.5, 512: 0.5}, 512))
CYCLES = (STAGES[:1], STAGES[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def training(folder: Path, resume: bool = False, start: tuple[Path, int] | None = None) -> Training:
    config = architecture()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 64, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 16
    config.layer_types = config.layer_types[:2]
    return Training(folder, RealText(), 0, config, CYCLES, resume=resume, start=start)


def test_resuming_changes_nothing(folder: Path) -> None:
    run = training(folder)
    first = run.train_step(*run.batches[0]).item()
    run = training(folder)
    run.run(15, workers=0)
    run.save()
    run.run(30, workers=0)
    again = training(folder, resume=True)
    assert again.step == 15
    again.run(30, workers=0)
    assert again.loss == pytest.approx(run.loss, abs=1e-5)
    assert run.train_step(*run.batches[0]).item() < first


def test_a_cycle_starts_from_the_weights_of_another_run(folder: Path, tmp_path: Path) -> None:
    run = training(folder)
    run.run(20, workers=0)
    run.write_weights(tmp_path / "weights")
    other = training(tmp_path / "run", start=(tmp_path / "weights", 1))
    assert (other.step, other.tokens) == (20, run.tokens)
    assert (tmp_path / "run" / "cycle_0.pt").exists()
    other.save()
    assert training(tmp_path / "run", resume=True).tokenizer.get_vocab() == other.tokenizer.get_vocab()
    run.run(21, workers=0)
    other.run(21, workers=0)
    assert other.loss == pytest.approx(run.loss, rel=0.01)  # the weights were rounded to bf16


def test_batches_do_not_depend_on_who_makes_them(folder: Path) -> None:
    run = training(folder)
    other = Batches(STAGES, run.tokenizer, RealText(), 0)
    for step in (25, 3):
        assert all(torch.equal(a, b) for a, b in zip(other[step], run.batches[step], strict=True))
    assert len(other) == 30


def call_drill(rng: Random, tokens: int) -> Sample:
    return call_sample(rng, 2 * tokens)


@pytest.mark.parametrize("make", [make_sample, spelling_sample, call_drill])
def test_the_loss_looks_at_the_answers(folder: Path, make: Callable[[Random, int], Sample]) -> None:
    run = training(folder)
    for seed in range(20):
        sample = make(Random(seed), 400)
        ids, marks = encode_sample(run.encoder, sample)
        said = run.tokenizer.decode([token for token, mark in zip(ids, marks, strict=True) if mark == ANSWER])
        replies = [sample.messages[index] for index in sorted(sample.answers)]
        assert said == "".join(f"{reply(message)}<|im_end|>" for message in replies)


def reply(message: dict[str, Any]) -> str:
    calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    names = [call["function"]["name"] for call in message.get("tool_calls", ())]
    texts = [f'{{"name": "{n}", "arguments": {json.dumps(c, ensure_ascii=False)}}}' for n, c in zip(names, calls)]  # noqa: B905
    return str(message["content"]) + "".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def test_mistakes_are_not_learned(folder: Path) -> None:
    run = training(folder)
    found = 0
    for seed in range(60):
        sample = make_sample(Random(seed), 900)
        ids, marks = encode_sample(run.encoder, sample)
        skipped = run.tokenizer.decode([token for token, mark in zip(ids, marks, strict=True) if mark == NOTHING])
        wrong = [sample.messages[index]["content"] for index in sorted(sample.wrong)]
        found += len(wrong)
        assert all(text in skipped for text in wrong) and bool(wrong) == bool(skipped)
    assert found


def test_holes_only_move_positions_apart() -> None:
    rows = [positions(Random(seed), 512) for seed in range(200)]
    assert all((row[1:] > row[:-1]).all() and row[0] == 0 for row in rows)
    holed = [row for row in rows if int(row[-1]) > 511]
    assert 20 < len(holed) < 100
    assert max(int(row[-1]) for row in rows) < 12288 + 4


def test_learning_rate_rises_and_ends_at_nothing_in_each_cycle() -> None:
    rates = [rate_at(step, (10_000, 5_000)) for step in range(15_001)]
    for cycle in (rates[:10_000], rates[10_000:]):
        assert cycle[0] < cycle[100] < max(cycle) == cycle[1000]
        assert cycle[-1] < 1e-6
    assert rates[-1] == 0 and min(rates) >= 0


def test_a_spelling_drill_is_said_in_the_form_asked_for() -> None:
    for seed in range(20):
        sample = spelling_sample(Random(seed), 300)
        said = [(sample.messages[index - 1]["content"], sample.messages[index]["content"]) for index in sample.answers]
        assert all(
            answer.lower() in question.lower() and answer in (answer.upper(), answer.lower())
            for question, answer in said
        )
