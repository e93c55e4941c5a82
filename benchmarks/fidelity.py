"""What erasers leave on real models: the bench of `kv-memory eval` with several processes on each GPU.

    python -m benchmarks.fidelity run --model DIR --data FOLDER --out qwen.jsonl --gpus 0 1 --processes 20 --minutes 8
    python -m benchmarks.fidelity save --records qwen.jsonl smollm2.jsonl --name fidelity

Cases take turns among the suites, so that a run that ends early has some of each; called again it goes on. A share is
measured as it is given: the engine's `free_tokens`, for which a GPU would take more, is set aside. Times are of several
processes on one card: only tokens and answers are of use (benchmarks/latency.py has times).
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kv_memory.engines.threads import wait_passively
from kv_memory.evaluation.baselines import NO_ERASE
from kv_memory.evaluation.bench.summary import BASELINES

SUITES = ("documents", "needle", "memory", "transcripts", "distance", "copy")
NAMES = (
    "drop",
    "shift",
    "shift+repair 10%",
    "shift+repair 25%",
    "shift+selective 10%",
    "shift+selective 25%",
    "influence 25%",
    "shift+influence 64",
    "shift+influence 5%",
    "shift+influence 10%",
    "shift+influence 15%",
    "shift+influence 25%",
    "shift+influence 50%",
)
DEFAULT = "shift+influence 25%"
TRIED = ("10%", "25%")
TRIES: dict[str, dict[str, Any]] = {"no first tokens": {"near": 0}, "1 hop": {"hops": 1}}
"""Settings that were tried, at these shares."""
SHOWN = (*BASELINES, *NAMES, *(f"shift+influence {share}, {what}" for share in TRIED for what in TRIES))
"""Treatments that a result has."""
SHOWN_OF_GROUPS = (NO_ERASE, "shift", "shift+influence 64", "shift+influence 10%", DEFAULT)
GROUPS = ("kind", "tokens", "distance", "place")
COUNTS = ("agrees", "restored", "misled", "kept", "abstains")
"""Figures of which a result has the counts: how many, and of how many."""
FIGURES = ("residual", "kl", *COUNTS, "recomputed")
FIGURES_OF_GROUPS = ("residual", "agrees", "recomputed")
_state: dict[str, Any] = {}


def erasers() -> dict[str, Any]:
    """Return the erasers by label, and the settings that were tried."""
    from kv_memory.erasers import get_eraser
    from kv_memory.erasers.shift_influence import ShiftInfluence

    found: dict[str, Any] = {name: get_eraser(name) for name in NAMES}
    for share in TRIED:
        for what, settings in TRIES.items():
            found[f"shift+influence {share}, {what}"] = ShiftInfluence(share, **settings)
    return found


def start(args: argparse.Namespace, gpus: Any) -> None:
    """Make this worker's bench on the next of the GPUs."""
    wait_passively()
    gpu = gpus.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.evaluation.bench.run import Bench

    torch.set_num_threads(1)
    layers = tuple(args.layers) if args.layers else None
    engine = TransformersEngine.load(args.model, dtype=args.dtype, probe_layers=layers)
    other = TransformersEngine.load(args.model, dtype=args.other_dtype, probe_layers=()) if args.other_dtype else None
    engine.free_tokens = 1
    _state.update(bench=Bench(engine, erasers(), other), until=args.until)


def measure(job: tuple[Any, frozenset[str]]) -> list[Any]:
    """Measure a case; one that fails is told and left out."""
    case, known = job
    if time.time() > _state["until"]:
        return []
    try:
        return [row for rows in _state["bench"].rows([case], lambda _: known) for row in rows]
    except Exception:
        traceback.print_exc()
        return []


def make(suite: str, model: str, data: Path, seed: int, size: tuple[int, int]) -> list[Any]:
    """Make the cases of a suite, which takes no weights; `size`: the longest case and the number of cases."""
    longest, count = size
    from transformers import AutoTokenizer, GenerationConfig

    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers.tokenizer import HFTokenizer
    from kv_memory.errors import KVMemoryError
    from kv_memory.evaluation.bench.measure import make_cases
    from kv_memory.evaluation.suites.source import Source

    ends = GenerationConfig.from_pretrained(model).eos_token_id
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(model), [ends] if isinstance(ends, int) else ends or ())
    source = Source(ChatFormat(tokenizer), seed=seed, longest=longest, data=data)
    try:
        return make_cases([suite], source, count)
    except KVMemoryError as error:
        print(error, flush=True)
        return []


def run(args: argparse.Namespace) -> None:
    """Measure until the time is over."""
    args.until = time.time() + 60 * args.minutes
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.evaluation.bench.record import Record, this_run

    with ProcessPoolExecutor(len(args.suites), mp_context=get_context("spawn")) as makers:
        given = (args.model, args.data, args.seed, (args.longest, args.cases))
        made = list(makers.map(make, args.suites, *([value] * len(args.suites) for value in given)))
    print({suite: len(cases) for suite, cases in zip(args.suites, made, strict=True)}, flush=True)
    cases = [case for case in chain.from_iterable(zip_longest(*made)) if case is not None]
    engine = TransformersEngine.load(args.model, device="cpu", dtype=args.dtype)
    settings = {"model": args.label, "longest": args.longest, "seed": args.seed}
    record = Record(this_run(engine, **settings), args.out)
    del engine
    context = get_context("spawn")
    gpus = context.Manager().Queue()
    for number in range(args.processes):
        gpus.put(args.gpus[number % len(args.gpus)] if args.gpus else None)
    jobs = [(case, frozenset(record.known(case))) for case in cases]
    with context.Pool(args.processes, start, (args, gpus)) as pool:
        for number, rows in enumerate(pool.imap_unordered(measure, jobs), 1):
            record.add(rows)
            if number % 50 == 0:
                print(f"{number} of {len(jobs)} cases", flush=True)
    print("done", flush=True)


def saved(records: Sequence[Path], name: str, hardware: str | None) -> None:
    """Write what the tables show of records to a result: the figures of each suite, and some of its groups."""
    from benchmarks.record import save
    from kv_memory.evaluation.bench.record import Run
    from kv_memory.evaluation.bench.rows import Row
    from kv_memory.evaluation.bench.summary import summarise

    result: dict[str, Any] = {}
    for path in records:
        first, *lines = path.read_text().splitlines()
        run_of = Run.model_validate_json(first)
        made = run_of.environment.model_dump(mode="json")
        made["versions"] = {package: made["versions"][package] for package in ("torch", "transformers", "tokenizers")}
        made |= {"commit": run_of.commit, "hardware": hardware or made["hardware"]}
        if result.setdefault("environment", made) != made:
            raise SystemExit(f"{path} was measured elsewhere than {records[0]}: save them apart.")
        known = [row for row in map(Row.model_validate_json, lines) if row.treatment in SHOWN]
        summary = summarise(known, DEFAULT, run_of.environment.seed).model_dump(mode="json")
        result.setdefault("models", {})[run_of.model] = {
            **{field: getattr(run_of, field) for field in ("weights", "dtype", "longest")},
            "suites": {group["suite"]: of_group(group) for group in summary["groups"] if not group["by"]},
            "groups": [of_group(group) for group in summary["groups"] if group["by"] in GROUPS],
        }
    save(name, result)


def of_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of a group of cases. Times are not: several processes shared a card."""
    whole = not group["by"]
    names = [name for name in group["treatments"] if whole or name in SHOWN_OF_GROUPS]
    figures = FIGURES if whole else FIGURES_OF_GROUPS
    heads = ("cases", "conversations", "changed") if whole else ("suite", "by", "value", "cases", "changed")
    rows = {
        name: {figure: value for figure in figures if (value := group["treatments"][name][figure]) is not None}
        for name in names
    }
    for row in rows.values():
        row |= {figure: [row[figure]["hits"], row[figure]["of"]] for figure in COUNTS if figure in row}
    return {head: group[head] for head in heads} | {"treatments": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("run")
    part.add_argument("--model", required=True)
    part.add_argument("--label", required=True, help="name of the model in the result")
    part.add_argument("--data", type=Path, required=True)
    part.add_argument("--out", type=Path, required=True)
    part.add_argument("--suites", nargs="+", default=list(SUITES))
    part.add_argument("--cases", type=int, default=100)
    part.add_argument("--longest", type=int, default=8192)
    part.add_argument("--layers", type=int, nargs="+", help="probe layers; default: the engine's")
    part.add_argument("--dtype", default="float32")
    part.add_argument("--other-dtype")
    part.add_argument("--gpus", nargs="*", default=[])
    part.add_argument("--processes", type=int, default=1)
    part.add_argument("--minutes", type=float, default=8)
    part.add_argument("--seed", type=int, default=0)
    part = parts.add_parser("save")
    part.add_argument("--records", nargs="+", type=Path, required=True)
    part.add_argument("--name", default="fidelity")
    part.add_argument("--hardware", help="of all processes, where a record says that of one")
    args = parser.parse_args()
    if args.part == "run":
        run(args)
    else:
        saved(args.records, args.name, args.hardware)


if __name__ == "__main__":
    main()
