"""What a training takes, said before it starts: memory by adding up what a step holds, time by arithmetic.

Time is the step's floating-point operations over the pace of a matrix product that is timed on the device, times
`EFFICIENCY`; `Timing` then says what the first steps took. Memory is the largest that a step holds: the model's
weights, the adapter with its gradient and the optimizer's state, the rows of the contexts, the activations that the
gradient needs, and the predictions of the queries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from kv_memory.engines.adapter_check import PROJECTIONS
from kv_memory.errors import KVMemoryError
from kv_memory.training.plan import Plan
from kv_memory.training.trainer import Report

EFFICIENCY = 0.35
"""Share of a matrix product's pace that a training step reaches: attention and small batches take the rest."""
QUERY, SPAN = 48, 160
"""Tokens of a query and of a span, on average."""
GB = 1e9
WARM, TIMED = 5, 15
"""Steps before those that are timed, and steps that are timed."""


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a training."""

    parameters: int
    """Bytes of the model's weights."""
    trained: int
    """Bytes of the adapter in float32, its gradient and the optimizer's two moments."""
    rows: int
    """Bytes of keys and values that a step holds at once."""
    activations: int
    """Bytes that the gradient needs of the tokens that it goes through."""
    predictions: int
    """Bytes of log-probabilities over the vocabulary, and of their gradient."""
    operations: float
    """Floating-point operations of a step."""
    seconds: float
    """Seconds of all steps."""
    room: int
    """Bytes that the device has."""
    timed: bool = False
    """Whether the seconds are those of the first steps, and not by arithmetic."""

    @property
    def memory(self) -> int:
        """Return the bytes that the training takes at its largest, as well as can be said beforehand."""
        return self.parameters + self.trained + self.rows + self.activations + self.predictions

    @property
    def least(self) -> int:
        """Return the bytes below which it does not run."""
        return self.parameters + self.trained + self.rows // 3 + self.predictions // 2

    def check(self) -> None:
        """Raise KVMemoryError where the training surely does not fit."""
        if self.least > self.room:
            raise KVMemoryError(
                f"The training needs at least {self.least / GB:,.1f} GB and the device has {self.room / GB:,.1f} GB; "
                "give a smaller --batch, fewer --questions, a model in 16 bits, or a larger device."
            )

    def __str__(self) -> str:
        """Return the estimate in one line, in words."""
        parts = {
            "weights": self.parameters,
            "adapter and optimizer": self.trained,
            "keys and values": self.rows,
            "activations": self.activations,
            "predictions": self.predictions,
        }
        listed = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
        how = "as timed over the first steps" if self.timed else "by arithmetic (small models take longer)"
        memory = f"about {self.memory / GB:,.1f} GB of {self.room / GB:,.1f} ({listed})"
        return f"{memory} and {_duration(self.seconds)} {how}"


def estimate(model: Any, plan: Plan, *, device: torch.device, operations_a_second: float | None = None) -> Estimate:
    """Return what training an eraser for this model takes.

    `model`: a transformers model, whose weights may be on the meta device. `operations_a_second`: pace of a matrix
    product on the device; None times one.
    """
    config = model.config.get_text_config(decoder=True)
    weights = sum(p.numel() for p in model.parameters())
    width = model.dtype.itemsize
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    grouped = getattr(config, "num_key_value_heads", None) or heads
    count = max(1, plan.tokens // min(plan.lengths))
    asked = count * plan.questions * QUERY
    run = count * min(SPAN, plan.slots or SPAN) + count * plan.repair
    row = 2 * layers * grouped * size * width
    # Contexts are held as read, as never-saw has them or joined for a pass, and beside the new rows of each layer,
    # where attention with a mask has keys and values for each head.
    rows = plan.tokens * (3 * row + (0 if plan.gradient_checkpointing else row * heads // grouped))
    token = hidden * width if plan.gradient_checkpointing else (12 * hidden + 4 * heads * size + 4 * inner) * width
    activations = (asked + run) * layers * token
    operations = 2 * weights * (2 * plan.tokens + (4 if plan.gradient_checkpointing else 3) * (asked + run) + asked)
    operations += 2 * 2 * layers * heads * size * plan.tokens * (max(plan.lengths) + 4 * plan.questions * QUERY)
    pace = operations_a_second or measured_pace(device, model.dtype if device.type == "cuda" else torch.float32)
    return Estimate(
        parameters=weights * width,
        trained=16 * plan.rank * sum(_sides(module) for module in _projections(model)),
        rows=rows,
        activations=activations,
        predictions=asked * config.vocab_size * 4 * 5,
        operations=float(operations),
        seconds=plan.steps * operations / (EFFICIENCY * pace),
        room=room_of(device),
    )


class Timing:
    """A callback for `Trainer.run` that corrects an estimate's time once, by the steps after the first few."""

    def __init__(self, needed: Estimate, steps: int, takes: Callable[[Estimate], None], report: Report) -> None:
        """Take the estimate and the number of steps; `takes` gets the corrected one, `report` is called every step."""
        self.needed, self.steps, self.takes, self.report = needed, steps, takes, report
        self._ended: list[float] = []

    def __call__(self, step: int, loss: float, table: dict[str, dict[str, float]] | None) -> None:
        """Report a step."""
        self._ended.append(time.monotonic())
        if len(self._ended) == WARM + TIMED:
            pace = (self._ended[-1] - self._ended[WARM - 1]) / TIMED
            self.takes(replace(self.needed, seconds=self.steps * pace, timed=True))
        self.report(step, loss, table)


def measured_pace(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a matrix product on the device, timed for a moment."""
    size = 4096 if device.type == "cuda" else 512
    left = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        started = _now(device)
        for _ in range(4):
            left @ left
        times.append(_now(device) - started)
    return 4 * 2 * size**3 / min(times)


def room_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _projections(model: Any) -> list[Any]:
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] in PROJECTIONS]


def _sides(module: Any) -> int:
    return sum(module.weight.shape)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
