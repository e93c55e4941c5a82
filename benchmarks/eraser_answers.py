"""What a trained eraser's answers are worth beside `drop` and `influence`: agreement with never-saw, by class.

Questions on unseen worlds, at most one of each class a world. An answer agrees where greedy decoding gives never-saw's
tokens and the same end; it is exact where it is what the world says is right without the span. Residual influence: mean
KL from never-saw as a share of that of no erasing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kv_memory.calibration.estimates import ratio, wilson

CLASSES = ("restore", "unknown", "injection", "keep", "binding")
NO_ERASE, NEVER_SAW = "no erase", "never-saw"
ERASERS = ("drop", "influence 8", "influence 32", "steer", "steer+influence 8")
FIRST = 3_000_000
"""Seed of the first world."""

_state: dict[str, Any] = {}


@dataclass(frozen=True)
class Row:
    """One question: its class, whether never-saw is right, and by eraser (agrees, exact, KL)."""

    kind: str
    right: bool
    found: dict[str, tuple[bool, bool, float]]


def evaluate(
    model: str | None, eraser: Path, *, lengths: Sequence[int], worlds: int, workers: int
) -> dict[str, dict[str, Any]]:
    """By length and class: questions, never-saw's exact match, and each eraser's figures."""
    jobs = [(length, FIRST + world) for length, world in product(lengths, range(worlds))]
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (model, eraser)) as pool:
        rows = list(zip(jobs, pool.map(_ask, jobs), strict=True))
    return {
        str(length): summary([row for (asked, _), found in rows for row in found if asked == length])
        for length in lengths
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """By class, from the rows of one length; classes that were not met are left out."""
    found: dict[str, Any] = {}
    for kind in CLASSES:
        of_kind = [row for row in rows if row.kind == kind]
        if not of_kind:
            continue
        count, none = len(of_kind), [row.found[NO_ERASE][2] for row in of_kind]
        found[kind] = {"questions": count, NEVER_SAW: {"exact": sum(row.right for row in of_kind) / count}}
        for name in ERASERS:
            agree, exact, kl = zip(*(row.found[name] for row in of_kind), strict=True)
            found[kind][name] = {
                "agreement": wilson(sum(agree), count).model_dump(),
                "exact": sum(exact) / count,
                "residual": ratio(kl, none).model_dump(),
            }
    return found


def _start(model: str | None, eraser: Path) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from kv_memory import Memory

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    disable_progress_bar()
    _state["memory"] = Memory(model, eraser=eraser, heal="never")
    _state["erasers"] = {NO_ERASE: None} | {name: named(name) for name in ERASERS}


def named(name: str) -> Any:
    """The eraser; a number after its name is how many tokens it recomputes."""
    from kv_memory.erasers import ERASERS as KINDS

    kind, _, count = name.partition(" ")
    return KINDS[kind](*([int(count)] if count else []))


def _ask(job: tuple[int, int]) -> list[Row]:
    """The questions of one world."""
    return list(_rows(*job))


def _rows(length: int, seed: int) -> Iterator[Row]:
    from kv_memory.calibration.cases import world_cases
    from kv_memory.calibration.trial import trial
    from kv_memory.pocket.worlds import make_world

    memory = _state["memory"]
    world = make_world(seed, length, "test")
    probes = {probe.kind: probe for probe in world.probes if probe.kind in CLASSES}
    for case in world_cases(memory.format, world, list(probes.values())):
        with trial(memory.engine, case) as asked:
            right = case.right(asked.answer)
            found = {}
            for name, eraser in _state["erasers"].items():
                outcome = asked.run(eraser)
                exact = right if outcome.agrees else case.right(asked.answer_after(eraser))
                found[name] = (outcome.agrees, exact, outcome.kl)
        yield Row(case.kind, right, found)
