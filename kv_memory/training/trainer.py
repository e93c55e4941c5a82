"""The training of an eraser: the loop, its checkpoints, and the table that shows how good it is.

Every step's batch and learning rate follow from the plan, so that a killed run continues where its checkpoint was. On
several GPUs (accelerate), each process has its own batch of a step and the gradients are averaged.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from kv_memory.engines.transformers.rotary import Rotation
from kv_memory.errors import KVMemoryError
from kv_memory.training.adapter import Adapter
from kv_memory.training.batch import Batch
from kv_memory.training.objective import Objective, divergence
from kv_memory.training.passes import Context
from kv_memory.training.plan import STAGES, Batches

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
Report = Callable[[int, float, dict[str, dict[str, float]] | None], None]
"""A callback that receives the step, the loss, and at intervals the validation table."""


class Trainer:
    """One training run in its folder."""

    def __init__(
        self,
        model: Any,
        batches: Batches,
        out: Path,
        *,
        rotation: Rotation | None = None,
        resume: bool = False,
        validation: int = 8,
    ) -> None:
        """Set up a run, or with `resume` continue the one in `out`.

        `model` is frozen and gets the adapter; `rotation` moves its keys. `validation`: number of examples of each
        stage, of the shortest and of the longest length, that the table is of; 0 for an empty table. Raises
        KVMemoryError where there is nothing to resume, and for a plan that closes gaps with a model whose keys cannot
        be moved.
        """
        if batches.plan.closes and rotation is None:
            raise KVMemoryError("The keys of this model cannot be moved: train an eraser that does not close the gap.")
        self.batches, self.plan, self.out = batches, batches.plan, out
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.plan.seed)
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        model.to(self.device)
        self.adapter = Adapter(model, self.plan.rank, self.plan.alpha)
        self.objective = Objective(
            self.adapter.model,
            self.adapter.switched,
            sees_suffix=self.plan.sees_suffix,
            closing=rotation if self.plan.closes else None,
            checkpoint=self.plan.gradient_checkpointing,
        )
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=0.0, weight_decay=self.plan.weight_decay)
        self.step, self.seconds = 0, 0.0
        if resume:
            self._load()
        self._validation = {
            length: [example for stage in STAGES for example in batches.validation(length, validation, stage)]
            for length in (min(self.plan.lengths), max(self.plan.lengths))
        }

    def run(self, report: Report, *, every: int = 200, workers: int = 0, until: int | None = None) -> None:
        """Train up to step `until`, by default the plan's last. Every `every` steps write a checkpoint and make the
        table."""
        last = self.plan.steps if until is None else min(until, self.plan.steps)
        started = time.monotonic()
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        loader: DataLoader[Batch] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step * processes + rank, last * processes, processes),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        for batch in loader:
            loss, norm = self._train(batch.to(self.device))
            self.step += 1
            table = None
            if self.step % every == 0 or self.step == last:
                self.seconds += time.monotonic() - started
                started = time.monotonic()
                table = self.table()
                self.save()
            self._log(loss, norm, table)
            report(self.step, loss, table)

    def _train(self, batch: Batch) -> tuple[float, float]:
        """Make a step; return the loss, and the gradient's norm before it is clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.step < self.plan.near_drop_steps:
                loss = self.objective.mass(batch)
            else:
                loss = self.objective.loss(batch, self.plan.repaired(self.step), self.plan.mass_weight)
        torch.autograd.backward(loss)
        if self.accelerator.num_processes > 1:
            for parameter in self.adapter.parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, "mean")
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    @torch.no_grad()
    def table(self) -> dict[str, dict[str, float]]:
        """Return, per class of query, residual influence and agreement with never-saw, of steering and of dropping.

        With steering plus repair too, if the plan has a repair. Residual influence: mean KL from never-saw relative to
        that of no erasing (method.md, "Metrics").
        """
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        contexts: dict[str, Context] = {}
        for examples in self._validation.values():
            for example in examples:
                batch = self.batches.collate([example]).to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    read = self.objective.read(batch)
                    reference = self.objective.never_saw(batch)
                    contexts = {"none": read, "drop": self.objective.drop(batch, read)}
                    contexts["steer"] = steered = self.objective.steer(batch, read)
                    if self.plan.repair:
                        places = self.objective.choose(batch, read, self.plan.repair)
                        contexts["steer+influence"] = self.objective.repair(steered, places)
                    asked = {name: self.objective.ask(batch, context) for name, context in contexts.items()}
                for name, given in asked.items():
                    _score(found, name, batch, reference, given)
        return {
            kind: {
                **{
                    f"residual {name}": mean(row[f"kl {name}"]) / max(mean(row["kl none"]), 1e-9)
                    for name in contexts
                    if name != "none"
                },
                **{f"agree {name}": mean(row[f"agree {name}"]) for name in contexts},
            }
            for kind, row in sorted(found.items())
        }

    def save(self) -> None:
        """Write the checkpoint; after a crash while writing, the one before is still there."""
        if not self.accelerator.is_main_process:
            return
        trained = {name: p for name, p in self.adapter.model.named_parameters() if p.requires_grad}
        state = {"adapter": trained, "optimizer": self.optimizer.state_dict(), "plan": self.plan.model_dump_json()}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.out / f"{CHECKPOINT}.part")
        (self.out / f"{CHECKPOINT}.part").replace(self.out / CHECKPOINT)

    def _load(self) -> None:
        file = self.out / CHECKPOINT
        if not file.exists():
            raise KVMemoryError(f"There is nothing to resume in {self.out}; start without --resume.")
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["plan"] != self.plan.model_dump_json():
            raise KVMemoryError(f"The run in {self.out} has other settings; resume with the same ones.")
        self.adapter.model.load_state_dict(state["adapter"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _log(self, loss: float, norm: float, table: dict[str, dict[str, float]] | None) -> None:
        if self.accelerator.is_main_process:
            row = {"step": self.step, "loss": round(loss, 5), "norm": round(norm, 5), "table": table}
            with (self.out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")


def _score(found: Any, name: str, batch: Batch, reference: Tensor, given: Tensor) -> None:
    """Add one row's figures, from its queries, to the table's lists."""
    kl = divergence(reference, given)[0]
    same = (reference.argmax(-1) == given.argmax(-1))[0]
    for number, kind in enumerate(batch.kinds[0], 1):
        where = (batch.queries.group[0] == number) & (batch.weights[0] == 1)
        found[kind][f"kl {name}"].append(float(kl[where].mean()))
        found[kind][f"agree {name}"].append(float(same[where].all()))
