"""`kv-memory train-eraser`: a model and text in, an eraser directory out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from accelerate import PartialState

from kv_memory.calibration.cases import context_head
from kv_memory.chat import ChatFormat
from kv_memory.engines.loading import load_model
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.files import EraserRecord
from kv_memory.errors import KVMemoryError
from kv_memory.pocket import model_path
from kv_memory.training.corpus import TextExamples, read_texts
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import CHECKPOINT, Report, Trainer

RUN = "run"
"""Folder of checkpoints and the log within the eraser's directory."""


def run(
    model: str | None,
    text: str,
    out: Path,
    plan: Plan,
    *,
    resume: bool = False,
    workers: int = 0,
    every: int = 200,
    say: Callable[[str], None] = lambda what: None,
    report: Report = lambda step, loss, table: None,
) -> EraserRecord:
    """Train and write the eraser; its record. `say` hears what is being done, `report` each step; `every` so many steps
    there is a checkpoint and a validation table.

    Raises KVMemoryError, before anything is trained, for a model that cannot be edited, text that cannot be read or is
    too short, contexts that are longer than the model's, and a folder that holds another run.
    """
    if (out / RUN / CHECKPOINT).exists() and not resume:
        raise KVMemoryError(f"{out} holds a training already; go on with --resume, or give another folder.")
    texts = read_texts(text)
    say("Loading the model")
    loaded, tokenizer = load_model(model or str(model_path()), None, None)
    engine = TransformersEngine(loaded, tokenizer, name=model or "pocket")
    longest = max(plan.lengths)
    if longest + 512 > engine.capabilities.max_positions:
        raise KVMemoryError(
            f"{engine.name} reads at most {engine.capabilities.max_positions:,} tokens; contexts of {longest:,} with "
            "questions after them are too long: give shorter lengths."
        )
    say("Reading the text")
    examples = TextExamples(engine.tokenizer, texts, context_head(tokenizer))
    ends_turn = min(engine.tokenizer.eos_ids, default=0)
    batches = Batches(plan, examples, _tasks(engine), PartialState().num_processes, token=ends_turn)
    record = EraserRecord.of(
        engine, steering=batches.steering, recipe=plan.model_dump(), seed=plan.seed, lengths=plan.lengths
    )
    say("Preparing validation")
    trainer = Trainer(loaded, batches, out / RUN, rotation=engine.rotation, resume=resume)
    try:
        trainer.run(report, workers=workers, every=every)
    except KeyboardInterrupt:
        trainer.save()
        raise
    trainer.adapter.model.save_pretrained(out)
    record.save(out)
    return record


def _tasks(engine: TransformersEngine) -> WorldExamples | None:
    """None for a model without a chat template that takes tool results: it is trained on text alone."""
    tasks = WorldExamples(ChatFormat(engine.tokenizer))
    try:
        tasks.draw(Random(0), 400)
    except KVMemoryError:
        return None
    return tasks


def table_text(table: dict[str, dict[str, float]]) -> Any:
    """The validation table for people."""
    from rich.table import Table

    shown = Table(box=None)
    columns = list(next(iter(table.values())))
    for column in ("class", *columns):
        shown.add_column(column, justify="left" if column == "class" else "right")
    for kind, row in table.items():
        shown.add_row(kind, *(f"{row[column]:.3f}" for column in columns))
    return shown
