"""Training an eraser, from a model and text to an eraser directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import PartialState

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.adapter_check import check_adapter, read_adapter
from kv_memory.engines.fingerprint import revision_of
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import load_model, outline
from kv_memory.engines.transformers.probe import reaches, unproven
from kv_memory.errors import KVMemoryError, UnsupportedModelError
from kv_memory.evaluation.suites.registry import get_suite
from kv_memory.evaluation.suites.source import Source
from kv_memory.evaluation.suites.texts import context_head
from kv_memory.pocket import model_path
from kv_memory.trained.files import TrainedEraser, open_eraser
from kv_memory.trained.record import EraserRecord
from kv_memory.training.corpus import TextExamples, read_texts
from kv_memory.training.estimate import Estimate, Timing, estimate
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.suites import SuiteExamples
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import CHECKPOINT, Report, Trainer

RUN = "run"
"""Name of the folder with checkpoints and log within the eraser's directory."""


def run(
    model: str | None,
    text: str,
    out: Path,
    plan: Plan,
    *,
    data: Path | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    workers: int = 0,
    every: int = 200,
    say: Callable[[str], None] = lambda what: None,
    takes: Callable[[Estimate], None] = lambda estimate: None,
    report: Report = lambda step, loss, table: None,
) -> EraserRecord:
    """Train an eraser, write it and return its record.

    `data`: folder with the files that the plan's suites read. `start`: a trained eraser to continue from instead of a
    new LoRA. `say` is called with what is being done, `takes` with the memory and time that the training takes, before
    the model's weights are read, `report` after each step; every `every` steps a checkpoint is written and a validation
    table made.

    Raises KVMemoryError, before anything is trained, for a model that cannot be edited, text that cannot be read or is
    too short, suites that are unknown or lack their data, contexts that are longer than the model's, a training that
    surely does not fit the device's memory, a folder that holds another run, and a `start` that is another model's or
    of another rank.
    """
    if (out / RUN / CHECKPOINT).exists() and not resume:
        raise KVMemoryError(f"{out} holds a training already; go on with --resume, or give another folder.")
    texts = read_texts(text)
    for name in plan.suites:
        get_suite(name)
    # Each process takes its GPU before the model is loaded; on CPU this is what lets processes find each other.
    state = PartialState(cpu=not torch.accelerator.is_available())
    name = model or str(model_path())
    without_weights = outline(name, state.device)
    check_trainable(without_weights.config, name)
    needed = estimate(without_weights, plan, device=state.device)
    takes(needed)
    needed.check()
    say("Loading the model")
    loaded, tokenizer = load_model(name, None, None)
    engine = TransformersEngine(loaded, tokenizer, name=model or "pocket")
    longest = max(plan.lengths)
    if longest + 512 > engine.max_positions:
        raise KVMemoryError(
            f"{engine.name} reads at most {engine.max_positions:,} tokens; contexts of {longest:,} with "
            "questions after them are too long: give shorter lengths."
        )
    say("Reading the text and the suites" if plan.suites else "Reading the text")
    examples = TextExamples(engine.tokenizer, texts, context_head(tokenizer))
    ends_turn = min(engine.tokenizer.eos_ids, default=0)
    tasks = _tasks(engine, plan.questions)
    batches = Batches(plan, examples, tasks, state.num_processes, suites=_suites(engine, plan, data), token=ends_turn)
    begun = None if start is None else _start(start, engine, loaded, plan)
    recipe = plan.model_dump() | ({} if begun is None else {"start": begun.record.recipe if begun.record else {}})
    record = EraserRecord.of(engine, steering=batches.steering, recipe=recipe, seed=plan.seed, lengths=plan.lengths)
    say("Preparing validation")
    trainer = Trainer(loaded, batches, out / RUN, rotation=engine.rotation, resume=resume)
    if begun is not None and not resume:
        trainer.adapter.load(begun.folder)
    timed = Timing(needed, plan.steps, takes, report)
    try:
        trainer.run(timed if state.is_main_process else _silent, workers=workers, every=every)
    except KeyboardInterrupt:
        trainer.save()
        raise
    if state.is_main_process:
        trainer.adapter.save(out, base=engine.name)
        record.save(out)
    return record


def check_trainable(config: Any, name: str) -> None:
    """Raise UnsupportedModelError for a model whose layers do not all see the whole context through K and V."""
    if unproven(config) or not all(reach.whole for reach in reaches(config)):
        raise UnsupportedModelError(
            f"Erasers are trained for models with full attention in every layer, which {name} is not; use an eraser "
            "that needs no training."
        )


def _silent(step: int, loss: float, table: object) -> None:
    pass


def _start(name: str | Path, engine: TransformersEngine, model: Any, plan: Plan) -> TrainedEraser:
    """Return the eraser to continue from, checked."""
    begun = open_eraser(name)
    begun.check(engine.name, engine.config)
    begun.check_revision(engine.name, revision_of(engine.name), engine.weights_digest())
    check_adapter(model, str(begun.folder))
    config, _ = read_adapter(str(begun.folder))
    if (config.r, config.lora_alpha) != (plan.rank, plan.alpha):
        raise KVMemoryError(
            f"The eraser {name} has rank {config.r} and alpha {config.lora_alpha}, the training is of {plan.rank} and "
            f"{plan.alpha}; go on with rank {config.r} and alpha {config.lora_alpha}."
        )
    return begun


def _suites(engine: TransformersEngine, plan: Plan, data: Path | None) -> SuiteExamples | None:
    """Return the examples of the plan's suites, if it has any."""
    if not plan.suites:
        return None
    source = Source(ChatFormat(engine.tokenizer), plan.seed, max(plan.lengths) + 512, data, "train")
    return SuiteExamples.read(plan.suites, source)


def _tasks(engine: TransformersEngine, questions: int) -> WorldExamples | None:
    """Return the examples of stage 2; None for a model whose chat template takes no tool results: it trains on text
    alone."""
    tasks = WorldExamples(ChatFormat(engine.tokenizer), questions=questions)
    try:
        tasks.draw(Random(0), 400)
    except KVMemoryError:
        return None
    return tasks
