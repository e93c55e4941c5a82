"""The training loop: deterministic, resumable, and it removes what it is trained to remove."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import KVMemoryError
from kv_memory.synthetic.drafts import Kind
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.training.corpus import TextExamples
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import LOG, Trainer

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


OTHERS: dict[str, Any] = {
    "near_drop_steps": 3,
    "slots": 4,
    "spread": True,
    "sees_suffix": True,
    "content_free": True,
    "repair": 5,
    "repair_share": 0.5,
    "balance": {"binding": 4.0},
}
"""Every option that the published eraser does not have."""


@pytest.mark.parametrize("settings", [{}, OTHERS], ids=["published", "all options"])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path, settings: dict[str, Any]) -> None:
    trainer(tmp_path / "whole", **settings).run(lambda *_: None, every=100)
    trainer(tmp_path / "parts", **settings).run(lambda *_: None, every=4, until=4)
    again = trainer(tmp_path / "parts", resume=True, **settings)
    assert again.step == 4
    again.run(lambda *_: None, every=100)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_the_loss_falls_and_the_table_has_all_classes(tmp_path: Path) -> None:
    run = trainer(tmp_path, text_steps=12, task_steps=0, learning_rate=0.01, warm_up=1)
    batch = run.batches[0]
    with torch.no_grad():
        before = float(run.objective.loss(batch))
    tables: list[dict[str, dict[str, float]]] = []
    run.run(lambda step, loss, table: tables.append(table or {}), every=12)
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
    with pytest.raises(KVMemoryError, match=r"the plan: .*say how many slots"):
        Plan.of(spread=True)
    with pytest.raises(KVMemoryError, match="balance"):
        Plan.of(balance={"bindings": 2})


def test_a_plan_says_what_each_step_is() -> None:
    plan = Plan.of(near_drop_steps=10, text_steps=20, task_steps=500, text_share=0.0, repair=8, repair_share=0.5)
    assert [step for step in range(plan.steps) if plan.is_text(step)] == list(range(10, 30))
    repaired = [plan.repaired(step) for step in range(plan.steps)]
    assert set(repaired) == {0, 8} and 0.4 < repaired.count(8) / plan.steps < 0.6
    assert set(map(Plan.of(repair=8).repaired, range(50))) == {8}


def test_classes_are_drawn_by_their_balance(tmp_path: Path) -> None:
    source = WorldExamples(ChatFormat(TOKENIZER))
    counts = []
    balances: list[dict[Kind, float]] = [{}, {"binding": 1000.0}]
    for balance in balances:
        examples = [source.draw(Random(seed), 600, balance) for seed in range(12)]
        counts.append(sum(any(query.kind == "binding" for query in example.queries) for example in examples))
    assert counts[0] < counts[1]


def test_the_table_has_the_repair(tmp_path: Path) -> None:
    table = trainer(tmp_path, repair=4).table()
    assert all({"residual steer+influence", "agree steer+influence"} <= set(row) for row in table.values())
