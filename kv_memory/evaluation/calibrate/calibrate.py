"""Calibration of a model: probe layers, then the influence that each eraser leaves and its time, then the choice."""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from kv_memory.calibration.decide import candidates, defaults
from kv_memory.calibration.record import (
    Agreement,
    Calibration,
    Fidelity,
    InfluenceSettings,
    Latency,
    ProbeChoice,
    Run,
    shape_of,
)
from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AttentionScores, ProbeLayers, Scoring, lacks, require
from kv_memory.engines.registry import context_length, open_engine
from kv_memory.errors import ContextLengthError, UnsupportedOperationError
from kv_memory.evaluation.calibrate.cases import changed, conversation_cases, document_cases, head_of, tables
from kv_memory.evaluation.calibrate.layers import COARSE, FINE, choose_layers
from kv_memory.evaluation.calibrate.measure import agreement, fidelity_and_latency
from kv_memory.evaluation.calibrate.plan import Plan
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.machine import hardware
from kv_memory.evaluation.progress import Progress
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.synthetic.drafts import KINDS
from kv_memory.trained.files import TrainedEraser

LAYER_SPAN, LAYER_FOLLOWING, LAYER_CASES = 32, 256, COARSE + FINE
ROOM = 4096
"""Context, in tokens, that is enough for the documents, and for all that is measured at the default lengths."""


def calibrate(
    model: str | Path | Engine,
    *,
    name: str | None = None,
    plan: Plan,
    text: str | None = None,
    data: Path | None = None,
    known: Calibration | None = None,
    eraser: TrainedEraser | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Calibration:
    """Measure a model: a directory, hub id, .gguf file, or a ready engine, which keeps the probe layers that it has.

    What is erased are messages of generated conversations; with `text` spans of that text, with `data`, the folder of
    the data sets, wrong documents. `known`: a calibration of the same model from elsewhere; probe layers, fidelity and
    agreement are taken from it and only the time is measured. `eraser`: a trained eraser of this model, to be measured
    too. `progress` is called with what is being done, cases done, and cases in all.

    A model that is loaded here is loaded with the queries of all layers, and again with those of the chosen ones.

    Raises UnsupportedModelError as the engine does, UnsupportedOperationError for an engine that scores no tokens,
    ContextLengthError for lengths that the model does not read, ConversationError for a text that is too short,
    KVMemoryError for data that is missing, ModelError for an eraser of another model.
    """
    started = time.time()

    def check(config: dict[str, Any]) -> None:
        if known is not None:
            known.check(config)
        if eraser is not None:
            eraser.check(name or str(model), config)

    def load(layers: ProbeLayers) -> Engine:
        if isinstance(model, Engine):
            return model
        progress("Loading the model", 0, 0)
        wanted = max(ROOM, 2 * plan.longest)
        limit = context_length(model)
        room = None if limit is None else min(limit, wanted)
        return open_engine(model, name=name, context_length=room, check=check, probe_layers=layers)

    if isinstance(model, Engine):
        check(dict(model.config))
    engine = load("all" if known is None else known.influence.probe_layers)
    require(engine, Scoring, "Calibration")
    if reason := lacks(engine, "edit"):
        raise UnsupportedOperationError(
            f"There is nothing to calibrate for {engine.name}, since 'recompute' is its only eraser: {reason}."
        )
    longest = max(plan.followings) + 1 if text is None else plan.longest
    if longest > engine.max_positions:
        raise ContextLengthError(
            f"{engine.name} reads at most {engine.max_positions:,} tokens and the longest case has {longest:,} or "
            "more; give shorter lengths."
        )
    choices: tuple[ProbeChoice, ...] = ()
    if known is not None:
        influence, choices = known.influence, known.choices
    elif isinstance(model, Engine) or lacks(engine, "influence"):
        influence = _as_kept(engine)
    else:
        steps = _steps(progress, "Choosing probe layers", LAYER_CASES)
        influence, choices = choose_layers(engine, _layer_cases(engine, plan, text, data), steps)
        del engine  # before the next one is loaded
        gc.collect()
        engine = load(influence.probe_layers)
    if eraser is not None:
        eraser.load(engine)
    every = candidates(influence, shifts=not lacks(engine, "shift"))
    erasers = {label: each for label, each in every.items() if not each.lacking(engine)}

    fidelity: list[Fidelity] = []
    latency: list[Latency] = []
    found = list(tables(engine, plan, text, data))
    steps = _steps(progress, "Erasing spans", sum(map(len, found)))
    for cases in found:
        left, took = fidelity_and_latency(engine, cases, erasers, steps)
        fidelity, latency = fidelity + left, latency + took

    asked: list[Agreement] = []
    if known is None and plan.probes:
        steps = _steps(progress, "Asking questions", len(plan.conversations) * plan.probes * len(KINDS))
        for tokens in plan.conversations:
            asked += agreement(engine, tokens, plan.probes, erasers, seed=plan.seed, step=steps)

    run = Run(
        hardware=hardware(),
        dtype=engine.kv_dtype,
        versions=_versions(),
        seed=plan.seed,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 1),
        free_tokens=engine.free_tokens,
    )
    left_rows, asked_rows = (tuple(fidelity), tuple(asked)) if known is None else (known.fidelity, known.agreement)
    return Calibration(
        model=engine.name,
        shape=shape_of(engine.config),
        influence=influence,
        choices=choices,
        fidelity_run=run if known is None else known.fidelity_run,
        fidelity=left_rows,
        agreement=asked_rows,
        latency_run=run,
        latency=tuple(latency),
        defaults=defaults(left_rows, asked_rows, latency),
    )


def _as_kept(engine: Engine) -> InfluenceSettings:
    """Return settings for the probe layers that an engine has, which may be none."""
    if not isinstance(engine, AttentionScores) or lacks(engine, "influence"):
        return InfluenceSettings(probe_layers=(), memory=0.0)
    layers = engine.probe_layers
    return InfluenceSettings(probe_layers=layers, memory=round(len(layers) * engine.probe_memory, 4))


def _layer_cases(engine: Engine, plan: Plan, text: str | None, data: Path | None) -> list[Case]:
    """Return the cases on which probe layers are chosen: others than those that are measured afterwards."""
    tokenizer, seed, length = engine.tokenizer, plan.seed + 10_000, min(LAYER_FOLLOWING, max(plan.followings))
    if text is not None:
        ids = tokenizer.encode(text, special=False)[0]
        cases = text_cases(ids, head_of(tokenizer), min(LAYER_SPAN, max(plan.spans)), length, Random(seed))
    elif data is not None:
        cases = document_cases(tokenizer, data, [length], seed, engine.max_positions)
    else:
        cases = conversation_cases(tokenizer, length, seed, engine.max_positions)
    return list(islice(cases, LAYER_CASES)) if text is not None else changed(engine, cases, LAYER_CASES)


def _versions() -> dict[str, str]:
    known = {"python": platform.python_version(), "torch": version("torch"), "transformers": version("transformers")}
    return known | ({"llama_cpp_python": version("llama_cpp_python")} if "llama_cpp" in sys.modules else {})


def _steps(progress: Progress, what: str, total: int) -> Callable[[], None]:
    """Return a function that reports one more case done at each call."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    progress(what, 0, total)
    return step
