"""The quality of a trained eraser's answers beside `drop` and `influence`: agreement with never-saw, by class.

    python -m benchmarks.eraser_answers ERASER_DIR --questions 1000 --lengths 1024 2048 4096 8192

Many contexts at a time, through the training's objective, which does what the erasers do
(tests/training/test_variants.py). Questions on unseen worlds; up to six about one erased message. The right answer is
fed and each token of it judged: it is exact where every one is the most likely, its end too, and it agrees where the
most likely tokens are never-saw's. Residual influence: mean KL from never-saw as a share of that of no erasing.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kv_memory.calibration.estimates import ratio, wilson
from kv_memory.engines.transformers.rotary import Rotation
from kv_memory.erasers.steering import Steering
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.synthetic.drafts import KINDS, Kind
from kv_memory.training.batch import Batch, collate
from kv_memory.training.objective import Objective, divergence
from kv_memory.training.passes import Context
from kv_memory.training.tasks import WorldExamples

ERASERS = ("drop", "influence 32", "shift+influence 8", "shift+influence 32", "steer", "steer+influence 8")
BALANCE: Mapping[Kind, float] = {"injection": 6.0, "preference": 6.0, "call": 12.0, "binding": 3.0, "restore": 10.0}
"""Rare classes are asked about more often."""
FIRST = 3_000_000


@dataclass(frozen=True)
class Row:
    """One question: its class, whether never-saw is right, and by eraser (agrees, exact, KL)."""

    kind: str
    right: bool
    found: dict[str, tuple[bool, bool, float]]


class Questions(Dataset[Batch]):
    """Batches of one length."""

    def __init__(self, tasks: WorldExamples, steering: Steering, length: int, tokens: int, batches: int) -> None:
        self.tasks, self.steering, self.length, self.tokens, self.batches = tasks, steering, length, tokens, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:
        rng = Random(f"{FIRST}:{self.length}:{number}")
        count = max(1, self.tokens // self.length)
        return collate([self.tasks.draw(rng, self.length, BALANCE) for _ in range(count)], self.steering)


def evaluate(
    model: str | None,
    eraser: Path,
    *,
    lengths: Sequence[int],
    questions: int,
    tokens: int = 65536,
    minutes: float = float("inf"),
    workers: int = 0,
) -> dict[str, dict[str, Any]]:
    """Evaluate by length and class: questions, never-saw's exact match, and each eraser's figures.

    There are at least `questions` of each class, unless a length's `minutes` are over before.
    """
    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.engines.transformers.loading import load_model
    from kv_memory.pocket import model_path
    from kv_memory.trained.files import open_eraser
    from kv_memory.training.adapter import Adapter

    record = open_eraser(eraser).record
    assert record is not None, "what was trained here says how it is used"
    loaded, tokenizer = load_model(model or str(model_path()), None, None)
    engine = TransformersEngine(loaded, tokenizer, name=model or "pocket")
    assert engine.rotation is not None, "the keys of the models that are asked here can be moved"
    adapter = Adapter(loaded, record.recipe["rank"], record.recipe["alpha"])
    adapter.load(eraser)
    objective = Objective(
        adapter.model,
        adapter.switched,
        sees_suffix=record.sees_suffix,
        closing=engine.rotation if record.closes else None,
    )
    tasks, found = WorldExamples(ChatFormat(engine.tokenizer), "test"), {}
    for length in lengths:
        rows: list[Row] = []
        count: Counter[str] = Counter()
        started = time.monotonic()
        batches = Questions(tasks, record.steering(""), length, tokens, 200 * questions)
        loader: DataLoader[Batch] = DataLoader(
            batches, batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        for batch in loader:
            asked = list(judge(objective, engine.rotation, batch.to(loaded.device)))
            rows += asked
            count.update(row.kind for row in asked)
            if min(count[kind] for kind in KINDS) >= questions or time.monotonic() - started > 60 * minutes:
                break
        found[str(length)] = summary(rows)
    return found


@torch.no_grad()
def judge(objective: Objective, rotation: Rotation, batch: Batch) -> Iterator[Row]:
    """Judge the questions of one batch."""
    device = batch.weights.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        read, reference = objective.read(batch), objective.never_saw(batch)
        given = {name: objective.ask(batch, context) for name, context in _contexts(objective, rotation, batch, read)}
    answer = batch.queries.ids.roll(-1, 1)
    figures = {name: _figures(reference, scores, answer) for name, scores in given.items()}
    right = reference.argmax(-1) == answer
    for place, kinds in enumerate(batch.kinds):
        for number, kind in enumerate(kinds, 1):
            where = (batch.queries.group[place] == number) & (batch.weights[place] == 1)
            found = {
                name: (bool(same[place, where].all()), bool(exact[place, where].all()), float(kl[place, where].mean()))
                for name, (same, exact, kl) in figures.items()
            }
            yield Row(kind, bool(right[place, where].all()), found)


def _contexts(objective: Objective, rotation: Rotation, batch: Batch, read: Context) -> Iterator[tuple[str, Context]]:
    """Return the context that each eraser leaves."""
    erased = {
        NO_ERASE: read,
        "drop": objective.drop(batch, read),
        "shift": objective.shift(batch, read, rotation, batch.gone),
        "steer": objective.steer(batch, read),
    }
    for name in (NO_ERASE, *ERASERS):
        kind, _, k = name.rpartition("influence ")
        if k.isdigit():
            before = erased[kind.rstrip("+") or "drop"]
            yield name, objective.repair(before, objective.choose(batch, read, int(k)))
        else:
            yield name, erased[name]


def _figures(reference: Tensor, given: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return by token whether the most likely one is never-saw's, whether it is the answer's, and KL from never-saw."""
    likely = given.argmax(-1)
    return likely == reference.argmax(-1), likely == answer, divergence(reference, given)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the rows of one length by class; classes that were not met are left out."""
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    found: dict[str, Any] = {}
    for kind in (kind for kind in KINDS if by_kind[kind]):
        of_kind = by_kind[kind]
        count, none = len(of_kind), [row.found[NO_ERASE][2] for row in of_kind]
        found[kind] = {"questions": count, NEVER_SAW: {"exact": sum(row.right for row in of_kind) / count}}
        for name in (NO_ERASE, *ERASERS):
            agree, exact, kl = zip(*(row.found[name] for row in of_kind), strict=True)
            found[kind][name] = {
                "agreement": wilson(sum(agree), count).model_dump(),
                "exact": sum(exact) / count,
                "residual": ratio(kl, none).model_dump(),
            }
    return found


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each length and class: agreement by eraser."""
    for length, classes in found.items():
        for kind, row in classes.items():
            shown = (f"{name} {row[name]['agreement']['value']:.3f}" for name in ERASERS)
            exact = (f"{row[name]['exact']:.3f}" for name in (NEVER_SAW, "steer"))
            print(f"{length}, {kind} ({row['questions']}):", *shown, "| exact:", *exact, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eraser", type=Path)
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--questions", type=int, default=1000, help="of a class and length, at least")
    parser.add_argument("--tokens", type=int, default=65536, help="of a batch")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of a length, at most")
    parser.add_argument("--workers", type=int, default=0, help="processes that make questions")
    parser.add_argument("--name", default="eraser", help="of the result file")
    options = parser.parse_args()

    from benchmarks.record import environment, save

    settings = {name: getattr(options, name) for name in ("lengths", "questions", "tokens", "minutes", "workers")}
    found = evaluate(options.model, options.eraser, **settings)
    show(found)
    save(options.name, {**environment(FIRST), "model": options.model or "pocket", "lengths": found})


if __name__ == "__main__":
    main()
