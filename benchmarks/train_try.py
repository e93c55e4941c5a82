"""One training on prepared examples for some minutes, and what the eraser leaves on held-out cases of suites.

It is what a process of train_tries.py does. A try is killed and goes on: its plan is in plan.json, its checkpoint in
run/, its result in result.json.
"""

from __future__ import annotations

import gzip
import json
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from kv_memory.calibration.estimates import ratio
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.base import Sampling
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import load_model, load_tokenizer
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.erasers import get_eraser
from kv_memory.erasers.steering import steering_of
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.registry import get_suite
from kv_memory.evaluation.suites.source import Source
from kv_memory.evaluation.suites.texts import context_head
from kv_memory.evaluation.trial import trial
from kv_memory.synthetic.drafts import Kind
from kv_memory.trained.files import open_eraser
from kv_memory.trained.record import EraserRecord
from kv_memory.training.batch import Batch, Example
from kv_memory.training.corpus import TextExamples, read_texts
from kv_memory.training.estimate import Estimate, estimate
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.run import RUN
from kv_memory.training.suites import SuiteExamples
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import CHECKPOINT, LOG, Trainer

BASELINES = ("drop", "shift", "influence 10%", "influence 25%", "shift+influence 10%", "shift+influence 25%")
STEERED = ("steer", "steer+influence 10%", "steer+influence 25%")
NOTHING = "no erase"
ANSWER = 24
"""Tokens of never-saw's answer that are compared, at most."""
WARM, PACE = 3, 15.0
"""Batches before the pace is timed, and the seconds that timing takes at most."""
TEXT = 3_000_000
"""Characters of text that are read."""


@dataclass(frozen=True)
class Material:
    """Examples that a model is trained on and cases that it is judged by, as tokens: the same for all tries, and made
    beforehand on a CPU."""

    worlds: list[Example]
    suites: dict[str, list[Example]]
    cases: dict[str, list[Case]]
    """Held-out cases, by suite."""

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(pickle.dumps(self), 6))

    @classmethod
    def load(cls, path: Path) -> Material:
        loaded = pickle.loads(gzip.decompress(path.read_bytes()))
        assert isinstance(loaded, cls)
        return loaded


class Pool(SuiteExamples):
    """Generated conversations, made beforehand."""

    def draw(self, rng: Random, tokens: int, balance: Mapping[Kind, float] | None = None) -> Example:
        return super().draw(rng, tokens)


def prepare(
    model: str, data: Path, suites: list[str], *, lengths: list[int], worlds: int, cases: int, held_out: int
) -> Material:
    """Make a model's material: examples of generated conversations of these lengths and of suites, held-out cases."""
    form = ChatFormat(HFTokenizer(load_tokenizer(model)))
    train = Source(form, 0, max(lengths) + 512, data, "train")
    tasks = WorldExamples(form, questions=6)
    return Material(
        worlds=[tasks.draw(Random(number), lengths[number % len(lengths)]) for number in range(worlds)],
        suites=SuiteExamples.read(suites, train, cases).suites,
        cases={name: list(islice(get_suite(name)(replace(train, split="test")), held_out)) for name in suites},
    )


class _Enough(Exception):  # noqa: N818  # not an error: the minutes are over
    pass


def train(
    model: str, material: Material, settings: Mapping[str, Any], folder: Path, *, text: Path, minutes: float
) -> dict[str, Any]:
    """Train an eraser for some minutes, or go on where it was; return the plan, and what training took."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    loaded, tokenizer = load_model(model, None, None)
    engine = TransformersEngine(loaded, tokenizer, name=model)
    texts = TextExamples(engine.tokenizer, read_texts(text, TEXT), context_head(tokenizer))
    sources: dict[str, Any] = {"suites": SuiteExamples(material.suites), "token": min(engine.tokenizer.eos_ids)}

    def batches(plan: Plan) -> Batches:
        return Batches(plan, texts, Pool({"worlds": material.worlds}), **sources)

    guess = Plan.of(**{**settings, "near_drop_steps": 0, "text_steps": 0, "task_steps": 1_000_000})
    file = folder / "plan.json"
    resume = (folder / RUN / CHECKPOINT).exists()
    needed = estimate(loaded, guess, device=loaded.device)
    plan = Plan.model_validate_json(file.read_text()) if file.exists() else guess
    # no table: held-out cases judge it
    trainer = Trainer(loaded, batches(plan), folder / RUN, rotation=engine.rotation, resume=resume, validation=0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if not file.exists():
        pace = paced(trainer, min(PACE, 10 * minutes))
        plan = planned(settings, max(2, int((60 * minutes - (time.monotonic() - started)) / pace)))
        file.write_text(plan.model_dump_json(indent=1) + "\n")
        trainer.plan, trainer.batches = plan, batches(plan)

    def enough(step: int, loss: float, table: object) -> None:
        if time.monotonic() - started > 60 * minutes * 1.15:
            raise _Enough

    begun, first = time.monotonic(), trainer.step
    with suppress(_Enough):
        trainer.run(enough, every=max(1, plan.steps // 2), workers=1)
    trainer.adapter.save(folder, base=engine.name)
    EraserRecord.of(
        engine, steering=trainer.batches.steering, recipe=plan.model_dump(), seed=plan.seed, lengths=plan.lengths
    ).save(folder)
    return {
        "plan": plan.model_dump(exclude_defaults=True),
        "steps": trainer.step,
        "seconds_a_step": (time.monotonic() - begun) / max(1, trainer.step - first),
        **took(needed),
        **logged(folder / RUN / LOG),
    }


def paced(trainer: Trainer, seconds: float) -> float:
    """Return the seconds of a step: batches of the plan with their gradients, and no weight changed."""
    loader: DataLoader[Batch] = DataLoader(
        trainer.batches, batch_size=None, sampler=range(10_000), num_workers=1, multiprocessing_context="fork"
    )
    times: list[float] = []
    for number, batch in enumerate(loader):
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.device.type == "cuda"):
            loss = trainer.objective.loss(batch.to(trainer.device), trainer.plan.repaired(number))
        torch.autograd.backward(loss)
        float(loss.detach())
        trainer.optimizer.zero_grad(set_to_none=True)
        times.append(time.monotonic())
        if len(times) > WARM + 1 and times[-1] - times[0] > seconds:
            break
    return (times[-1] - times[WARM]) / (len(times) - 1 - WARM)


def planned(settings: Mapping[str, Any], steps: int) -> Plan:
    """Return a plan of `steps` steps: a tenth of them near drop if that is asked for, then the share of text."""
    near = steps // 10 if settings.get("near_drop_steps") else 0
    text = steps - near if settings.get("text_share") == 1 else (steps - near) // 5
    counts = {"near_drop_steps": near, "text_steps": text, "task_steps": steps - near - text}
    return Plan.of(**{**settings, **counts, "warm_up": max(1, min(50, steps // 10))})


def took(needed: Estimate) -> dict[str, float]:
    """Return the memory that a training took and the estimate of it, in GB."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"peak_gigabytes": peak / 1e9, "estimated_gigabytes": needed.memory / 1e9}


def logged(log: Path) -> dict[str, Any]:
    """Return the course of a training: medians of the loss and of the gradient's norm over its tenths."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    size = max(1, -(-len(rows) // 10))
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    return {
        "losses": [round(median(row["loss"] for row in part), 4) for part in parts],
        "norms": [round(median(row["norm"] for row in part), 4) for part in parts],
    }


def measure(
    model: str, material: Material, names: tuple[str, ...], folder: Path | None, *, answers: Path, count: int
) -> dict[str, dict[str, Any]]:
    """Return what these erasers leave of each suite's first `count` cases, in float32.

    `answers`: file with never-saw's answers, which is written where it is not there.
    """
    engine = TransformersEngine.load(model, dtype="float32")
    engine.free_tokens = 1  # shares are kept, whatever a GPU runs at the cost of one token
    if folder is not None:
        open_eraser(folder).load(engine)
    cases = {suite: some[:count] for suite, some in material.cases.items()}
    known: dict[str, list[int]] = json.loads(answers.read_text()) if answers.exists() else {}
    if not known:
        known = {f"{case.suite} {case.name}": said(engine, case) for some in cases.values() for case in some}
        answers.parent.mkdir(parents=True, exist_ok=True)
        draft = answers.with_name(f"{answers.name}.{time.monotonic_ns()}")
        draft.write_text(json.dumps(known))
        draft.replace(answers)
    found = {}
    for suite, some in cases.items():
        rows = [(case, dict(outcomes(engine, case, known[f"{case.suite} {case.name}"], names))) for case in some]
        found[suite] = summary(rows)
    return found


def said(engine: TransformersEngine, case: Case) -> list[int]:
    """Return the tokens to compare: a case's own, or never-saw's greedy answer and what follows it."""
    if case.scored is not None:
        return list(case.scored)
    seq = engine.create()
    try:
        engine.prefill(seq, [*case.kept, *case.tail])
        answer = engine.generate(seq, Sampling(max_tokens=ANSWER))
        return [*(token.id for token in answer if token.id >= 0), 0]
    finally:
        engine.free(seq)


def outcomes(
    engine: TransformersEngine, case: Case, scored: list[int], names: tuple[str, ...]
) -> Iterator[tuple[str, tuple[float, bool, int]]]:
    """Yield the KL from never-saw, whether the answer agrees, and the tokens run, by eraser and without erasing."""
    steering = steering_of(engine)
    with trial(engine, replace(case, scored=tuple(scored))) as this:
        for name in (NOTHING, *names):
            eraser = None if name == NOTHING else get_eraser(name)
            if eraser is not None and name.startswith("steer+") and steering is not None:
                # at equal tokens: the states count as well
                share = float(name.rpartition(" ")[2].removesuffix("%")) / 100
                states = sum(end - start for span in case.spans for start, end in steering.cells(*span))
                left = max(0, round(share * case.following) - states)
                eraser = get_eraser(f"steer+influence {left}")
            done = this.run(eraser)
            yield name, (done.kl, done.agrees, done.recomputed)


def summary(rows: list[tuple[Case, dict[str, tuple[float, bool, int]]]]) -> dict[str, Any]:
    """Return by eraser what is left of the influence, with its interval, agreement, and tokens run in the mean."""
    nothing = [found[NOTHING][0] for _, found in rows]
    names = rows[0][1] if rows else ()
    return {
        name: {
            "left": ratio(
                [found[name][0] for _, found in rows], nothing, clusters=[case.conversation for case, _ in rows]
            ).model_dump(),
            "agrees": sum(found[name][1] for _, found in rows) / len(rows),
            "tokens": sum(found[name][2] for _, found in rows) / len(rows),
            "nats": [round(found[name][0], 6) for _, found in rows],
        }
        for name in names
    }
