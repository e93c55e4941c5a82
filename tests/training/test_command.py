"""kv-memory train-eraser: from a model's directory and a text to an eraser that loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from kv_memory import Memory
from kv_memory.erasers.steering import steering_of
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.registry import SUITES
from kv_memory.evaluation.suites.source import Source, Suite
from kv_memory.training.estimate import Estimate
from kv_memory.training.plan import Plan
from kv_memory.training.run import RUN, run
from tests.tiny import save_tiny

WORDS = " ".join(f"word{number}" for number in range(1500))
PLAN = Plan.of(text_steps=2, task_steps=2, lengths=(320,), tokens=320, rank=2, warm_up=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(WORDS)
    return str(folder)


def test_an_eraser_is_trained_and_used(model: str, tmp_path: Path) -> None:
    steps: list[int] = []
    record = run(model, f"{model}/text.txt", tmp_path, PLAN, report=lambda step, loss, table: steps.append(step))
    assert steps == [1, 2, 3, 4] and record.lengths == (320,) and record.seed == 0
    memory = Memory(model, eraser=str(tmp_path), heal="never")
    session = memory.session("s")
    session.prefill([{"role": "user", "content": "secret", "id": "a"}, {"role": "user", "content": "hello" * 40}])
    assert session.retract("a").eraser == "steer"


def colours(source: Source) -> Iterator[Case]:
    """A suite: what the last of two messages says, the first of which is erased."""
    for number in range(12):
        messages = [{"role": "user", "id": f"m{i}", "content": f"colour {number + i} is red"} for i in range(3)]
        read = Transcript(source.form, messages)
        named = {"suite": "colours", "name": str(number), "conversation": str(number)}
        case = read.question("stale", ["m1"], "Which?", answer="red", **named)
        if source.fits(case):
            yield case


def test_an_eraser_is_trained_on_a_suite(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Suite], SUITES), "colours", colours)
    plan = PLAN.model_copy(update={"text_steps": 1, "suites": ("colours",), "suite_share": 1.0, "text_share": 0.0})
    said: list[Estimate] = []
    record = run(model, f"{model}/text.txt", tmp_path, plan, takes=said.append)
    assert record.recipe["suites"] == ("colours",)
    assert len(said) == 1 and said[0].memory > said[0].parameters


def test_what_cannot_be_trained_is_refused_before_the_model_is_read(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_memory.training.run.load_model", lambda *_: pytest.fail("the model was read"))
    text, out = f"{model}/text.txt", tmp_path / "out"
    with pytest.raises(KVMemoryError, match="no suite 'poems'"):
        run(model, text, out, PLAN.model_copy(update={"suites": ("poems",)}))
    monkeypatch.setattr("kv_memory.training.estimate.room_of", lambda device: 1000)
    with pytest.raises(KVMemoryError, match="needs at least"):
        run(model, text, out, PLAN)
    assert not out.exists()


def test_how_the_slots_are_used_is_in_the_record(model: str, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"slots": 2, "spread": True, "sees_suffix": True, "content_free": True})
    record = run(model, f"{model}/text.txt", tmp_path, plan)
    assert (record.slots, record.spread, record.sees_suffix) == (2, True, True)
    memory = Memory(model, eraser=str(tmp_path), heal="never")
    assert memory.engine.tokenizer.eos_ids == {record.token}
    steering = steering_of(memory.engine)
    assert steering is not None and steering == record.steering(steering.adapter)
    session = memory.session("s")
    session.prefill([{"role": "user", "content": "secret", "id": "a"}, {"role": "user", "content": "hello" * 40}])
    assert session.retract("a").tokens_recomputed == 2


def test_a_folder_with_a_run_is_not_overwritten(model: str, tmp_path: Path) -> None:
    run(model, f"{model}/text.txt", tmp_path, PLAN)
    with pytest.raises(KVMemoryError, match="--resume"):
        run(model, f"{model}/text.txt", tmp_path, PLAN)
    again = run(model, f"{model}/text.txt", tmp_path, PLAN, resume=True)  # nothing is left to do
    assert again.recipe["rank"] == 2


def test_training_goes_on_from_an_eraser(model: str, tmp_path: Path) -> None:
    run(model, f"{model}/text.txt", tmp_path / "first", PLAN)
    still = PLAN.model_copy(update={"learning_rate": 1e-12})
    record = run(model, f"{model}/text.txt", tmp_path / "second", still, start=tmp_path / "first")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert record.recipe["start"]["learning_rate"] == 0.01


def test_an_eraser_of_another_rank_is_no_start(model: str, tmp_path: Path) -> None:
    run(model, f"{model}/text.txt", tmp_path / "first", PLAN)
    with pytest.raises(KVMemoryError, match="rank 2 and alpha 32, the training is of 4"):
        run(
            model,
            f"{model}/text.txt",
            tmp_path / "second",
            PLAN.model_copy(update={"rank": 4}),
            start=tmp_path / "first",
        )


def test_several_processes_train_one_eraser(model: str, tmp_path: Path) -> None:
    options = ["--text-steps", "2", "--task-steps", "1", "--length", "320", "--batch", "320", "--workers", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "kv_memory", "train-eraser", "--model", model, "--text", f"{model}/text.txt"]
    environ = dict(os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "--out", str(tmp_path), *options], env=environ, check=True, capture_output=True, timeout=300
    )
    logged = (tmp_path / RUN / "log.jsonl").read_text().splitlines()
    assert len(logged) == 3 and (tmp_path / "eraser.json").exists()


def test_ctrl_c_leaves_a_checkpoint(model: str, tmp_path: Path) -> None:
    def stop(step: int, loss: float, table: object) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, f"{model}/text.txt", tmp_path, PLAN, report=stop)
    assert torch.load(tmp_path / RUN / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "eraser.json").exists()


def test_contexts_longer_than_the_models_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(KVMemoryError, match="at most 2,048"):
        run(model, f"{model}/text.txt", tmp_path, Plan.of(lengths=(4096,)))
    assert not list(tmp_path.iterdir())
