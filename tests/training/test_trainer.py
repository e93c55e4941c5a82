"""The training loop: deterministic, resumable, and it removes what it is trained to remove."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch

from kv_memory.chat import ChatFormat
from kv_memory.engines.hf_tokenizer import HFTokenizer
from kv_memory.errors import KVMemoryError
from kv_memory.training.corpus import TextExamples
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import LOG, Trainer
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = HFTokenizer(tiny_tokenizer())
WORDS = "".join(Random(0).choices("abcdefghij ", k=9000))


def trainer(out: Path, resume: bool = False, **settings: object) -> Trainer:
    plan = Plan.of(
        **{"text_steps": 4, "task_steps": 4, "lengths": (320,), "tokens": 640, "rank": 4, "warm_up": 2, **settings}
    )
    batches = Batches(plan, TextExamples(TOKENIZER, [WORDS]), WorldExamples(ChatFormat(TOKENIZER)))
    return Trainer(tiny_model(), batches, out, resume=resume)


def losses(out: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").run(lambda *_: None, every=100)
    trainer(tmp_path / "parts").run(lambda *_: None, every=2, until=4)
    again = trainer(tmp_path / "parts", resume=True)
    assert again.step == 4
    again.run(lambda *_: None, every=100)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_the_loss_falls_and_the_table_has_all_classes(tmp_path: Path) -> None:
    run = trainer(tmp_path, text_steps=12, task_steps=0, learning_rate=0.01, warm_up=1)
    batch = run.batches[0]
    with torch.no_grad():
        before = float(run.objective.loss(batch))
    tables = []
    run.run(lambda step, loss, table: tables.append(table), every=12)
    with torch.no_grad():
        assert float(run.objective.loss(batch)) < before
    assert {"neighbours", "continuation", "keep"} <= set(tables[-1])
    assert all(0 <= row["agree steer"] <= 1 for row in tables[-1].values())


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    trainer(tmp_path).run(lambda *_: None, every=2, until=2)
    with pytest.raises(KVMemoryError, match="other settings"):
        trainer(tmp_path, resume=True, rank=8)
    with pytest.raises(KVMemoryError, match="nothing to resume"):
        trainer(tmp_path / "empty", resume=True)


def test_bad_settings_fail_before_the_start() -> None:
    with pytest.raises(KVMemoryError, match=r"lengths\.0: .*300"):
        Plan.of(lengths=(10,))
    with pytest.raises(KVMemoryError, match="speed"):
        Plan.of(speed=3)
