"""What a training takes is said before it starts, and one that cannot fit is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model

from kv_memory.engines.adapter_check import PROJECTIONS
from kv_memory.errors import KVMemoryError
from kv_memory.testing.chat import tiny_model
from kv_memory.training.estimate import TIMED, WARM, Estimate, Timing, estimate
from kv_memory.training.plan import Plan

CPU = torch.device("cpu")


def of(**settings: object) -> Estimate:
    plan = Plan.of(**{"tokens": 4096, "lengths": (512, 1024), **settings})
    return estimate(tiny_model(), plan, device=CPU, operations_a_second=1e9)


def test_weights_and_adapter_are_counted_exactly() -> None:
    model = tiny_model()
    found = of(rank=4)
    assert found.parameters == sum(p.numel() * p.itemsize for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=list(PROJECTIONS)))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert found.trained == 16 * trained


def test_more_work_takes_more() -> None:
    small, large = of(), of(tokens=16384)
    assert large.memory > small.memory > small.least > small.parameters
    assert large.seconds > 3 * small.seconds
    assert of(questions=12).predictions == 2 * small.predictions
    assert of(gradient_checkpointing=True).memory < small.memory
    assert of(gradient_checkpointing=True).seconds > small.seconds
    assert of(slots=4).activations < of(slots=64).activations
    assert of(task_steps=5000).seconds == pytest.approx(2 * small.seconds)


def test_a_training_that_cannot_fit_is_refused_in_one_sentence() -> None:
    found = of()
    found.check()
    with pytest.raises(KVMemoryError, match=r"needs at least .* GB and the device has .*smaller --batch") as refused:
        replace(found, room=found.least - 1).check()
    assert str(refused.value).count(".") - len(re.findall(r"\d\.\d", str(refused.value))) == 1


def test_the_first_steps_correct_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 2))
    said: list[Estimate] = []
    steps: list[int] = []
    monkeypatch.setattr("kv_memory.training.estimate.time.monotonic", lambda: float(next(clock)))
    timing = Timing(of(), 100, said.append, lambda step, loss, table: steps.append(step))
    for step in range(WARM + TIMED + 9):
        timing(step, 1.0, None)
    assert all(b - a == 1 for a, b in pairwise(steps)) and len(steps) == WARM + TIMED + 9
    (corrected,) = said
    assert corrected.seconds == 200 and corrected.timed
    assert "by arithmetic" in str(of()) and "3 minutes as timed over the first steps" in str(corrected)
