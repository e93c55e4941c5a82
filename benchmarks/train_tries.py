"""Why a learned eraser is no better than `drop` on a real model: short trainings that differ in one thing each.

    python -m benchmarks.train_tries prepare --model DIR --data FOLDER --material FILE
    python -m benchmarks.train_tries run --models NAME=DIR=FILE [NAME=DIR=FILE] --text FILE --minutes 4 --each 4

`prepare` needs no GPU: it writes a model's examples and held-out cases. `run` trains the tries, `--each` at a time on
each GPU, every one in a process of its own, and judges each on the held-out cases of every suite: what is left of the
influence by the eraser alone and with a tenth and a quarter of the later tokens recomputed, states counted. The try
"untrained" has the figures of the other erasers. Results are written to benchmarks/results/NAME.json after each try;
called again, those that are there are left out, and a training that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.record import earlier, environment, save
from kv_memory.engines.threads import wait_passively
from kv_memory.errors import KVMemoryError


@dataclass(frozen=True)
class Try:
    """One training: the fields of its Plan beside BASE; None trains nothing."""

    prediction: str
    options: dict[str, Any] | None = field(default_factory=dict)


SUITES = ("documents", "memory", "transcripts", "distance", "needle")
BASE: dict[str, Any] = {
    "learning_rate": 1e-4,
    "slots": 16,
    "closes": True,
    "lengths": (1024, 2048, 3072),
    "tokens": 8192,
    "text_share": 0.2,
    "suite_share": 0.5,
    "balance": {"binding": 4.0},
}
UNTRAINED = "untrained"
TRIES: dict[str, Try] = {
    UNTRAINED: Try("as measured before: shift .4 to .9 on documents, influence 25 % about .1", None),
    "rate 1e-5": Try(
        "hardly moves in so few steps: close to its start, the span's first 16 cells kept", {"learning_rate": 1e-5}
    ),
    "rate 1e-4": Try("the best rate: below shift on documents and transcripts", {}),
    "rate 5e-4": Try(
        "norms and losses jump in Qwen, worse than 1e-4 there; better than 1e-4 in SmolLM2", {"learning_rate": 5e-4}
    ),
    "rate 5e-4, generated alone": Try(
        "what failed before: worse than drop on all suites of Qwen",
        {
            "learning_rate": 5e-4,
            "suite_share": 0.0,
        },
    ),
    "text alone": Try("helps on neighbourhoods (transcripts), nothing on documents", {"text_share": 1.0}),
    "all cells": Try(
        "worse than 16 closed slots: its start is no erase, and 300 steps do not undo that",
        {
            "slots": None,
            "closes": False,
        },
    ),
    "all cells, near drop": Try(
        "starts from drop and ends a little below it; better than all cells",
        {
            "slots": None,
            "closes": False,
            "near_drop_steps": 1,
        },
    ),
    "16 slots, gap open": Try("worse than closed by the cost of the hole, some .1 on documents", {"closes": False}),
    "with repair": Try(
        "steer+influence below influence, where the others are above; steer alone as rate 1e-4",
        {
            "repair": 128,
            "repair_share": 0.5,
        },
    ),
    "mass .1": Try(
        "in Qwen better than rate 1e-4 on memory and needles, where states disturb look-ups; documents as rate 1e-4",
        {"mass_weight": 0.1},
    ),
    "4 slots": Try(
        "better than 16 on memory, needle and distance, whose short spans 16 slots nearly keep; as 16 on documents",
        {"slots": 4},
    ),
}
SETTINGS = ("minutes", "count")
"""Settings that the tries of one result file have in common."""


def home(folder: Path, model: str, name: str) -> Path:
    """Return a try's folder."""
    return folder / model / name.replace(" ", "-").replace(",", "")


def one(options: argparse.Namespace) -> None:
    """Run a try in this process; its result goes to result.json in its folder."""
    import torch

    from benchmarks.train_try import BASELINES, STEERED, Material, measure, train

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(0.97, 1.6 / options.each))
    else:
        torch.set_num_threads(1)
    model, path, file = options.models[0].split("=")
    material, this = Material.load(Path(file)), TRIES[options.one]
    folder = home(options.folder, model, options.one)
    settings = None if this.options is None else {**BASE, **this.options, **json.loads(options.settings)}
    if settings is not None:
        settings["suites"] = tuple(material.suites) if settings["suite_share"] else ()
    started, trained = time.monotonic(), None
    if settings is not None:
        trained = train(path, material, settings, folder, text=options.text, minutes=options.minutes)
        gc.collect()  # the training's model and rows, before the model is loaded once more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    ended = time.monotonic()
    names = BASELINES if settings is None else STEERED
    answers = options.folder / model / "answers.json"
    eraser = None if settings is None else folder
    left = measure(path, material, names, eraser, answers=answers, count=options.count)
    result = {
        "model": model,
        "try": options.one,
        "prediction": this.prediction,
        "training": trained,
        "seconds": {"training": round(ended - started, 1), "judging": round(time.monotonic() - ended, 1)},
        "suites": left,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def run_all(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Run the tries that have no result yet, in processes of their own; return the names of those that failed."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    free: SimpleQueue[str] = SimpleQueue()
    for _ in range(options.each):
        for gpu in gpus or [""]:
            free.put(gpu)
    # all tries of one model first: each GPU then has some of every model
    wanted = [(m, name) for m in options.models for name in options.tries if f"{key(m)}: {name}" not in result["tries"]]
    started, failed = time.monotonic(), []

    def attempt(this: tuple[str, str]) -> None:
        model, name = this
        gpu = free.get()
        left = options.stop_after - (time.monotonic() - started)
        if left < 60 * options.minutes + 60:
            free.put(gpu)
            print(f"{key(model)}: {name}: not started, {left:.0f} s are left", flush=True)
            return
        folder = home(options.folder, key(model), name)
        folder.mkdir(parents=True, exist_ok=True)
        given = {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "2"}
        given["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        command = [sys.executable, "-m", "benchmarks.train_tries", "run", "--one", name, "--models", model]
        for option in ("text", "minutes", "count", "folder", "each", "settings"):
            command += [f"--{option}", str(getattr(options, option))]
        with (folder / "output.txt").open("w") as log:
            environ = dict(os.environ) | given
            code = subprocess.run(command, env=environ, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        free.put(gpu)
        if code:
            failed.append(f"{key(model)}: {name}")
            print(failed[-1], "failed:", *(folder / "output.txt").read_text().splitlines()[-12:], sep="\n", flush=True)
            return
        result["tries"][f"{key(model)}: {name}"] = json.loads((folder / "result.json").read_text())
        save(options.name, result)
        print(f"{time.monotonic() - started:.0f} s, {key(model)}: {name}:", show(result, model, name), flush=True)

    with ThreadPoolExecutor(max(1, len(gpus)) * options.each) as pool:
        list(pool.map(attempt, wanted))
    return failed


def key(model: str) -> str:
    """Return a model's name, of NAME=DIR=FILE."""
    return model.partition("=")[0]


def show(result: dict[str, Any], model: str, name: str) -> str:
    """Return what a try left, in some lines."""
    this = result["tries"][f"{key(model)}: {name}"]
    trained = this["training"]
    said = "" if trained is None else f" {trained['steps']} steps, losses {trained['losses']}, norms {trained['norms']}"
    rows = [
        f"  {suite}: " + ", ".join(f"{eraser} {row['left']['value']:.2f}" for eraser, row in found.items())
        for suite, found in this["suites"].items()
    ]
    return "\n".join([said, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("prepare", help="write a model's examples and held-out cases")
    made.add_argument("--model", required=True)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--material", type=Path, required=True)
    made.add_argument("--suites", nargs="+", default=list(SUITES))
    made.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 3072])
    made.add_argument("--worlds", type=int, default=600, help="generated conversations")
    made.add_argument("--cases", type=int, default=200, help="of each suite, to train on")
    made.add_argument("--held-out", type=int, default=24, help="of each suite, to judge by")
    tried = commands.add_parser("run", help="train and judge")
    tried.add_argument("--models", nargs="+", required=True, metavar="NAME=DIR=FILE", help="FILE: written by prepare")
    tried.add_argument("--tries", nargs="+", choices=TRIES, default=list(TRIES), metavar="NAME", help="default: all")
    tried.add_argument("--text", type=Path, required=True)
    tried.add_argument("--minutes", type=float, default=4.0, help="of training a try, with loading")
    tried.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; start no try that ends later")
    tried.add_argument("--each", type=int, default=1, help="processes on each GPU")
    tried.add_argument("--count", type=int, default=12, help="of cases of each suite")
    tried.add_argument("--settings", default="{}", help="fields of every Plan, as JSON")
    tried.add_argument("--folder", type=Path, default=Path("runs/train_tries"))
    tried.add_argument("--name", default="train_tries", help="of the result file")
    tried.add_argument("--one", choices=TRIES, metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wait_passively()
    if options.command == "prepare":
        from benchmarks.train_try import prepare

        counts = {"worlds": options.worlds, "cases": options.cases, "held_out": options.held_out}
        try:
            material = prepare(options.model, options.data, options.suites, lengths=options.lengths, **counts)
        except KVMemoryError as error:
            raise SystemExit(str(error)) from error
        material.save(options.material)
        print(f"wrote {options.material}")
        return
    if options.one:
        one(options)
        return
    settings = {name: getattr(options, name) for name in SETTINGS}
    result: dict[str, Any] = {**environment(0), "settings": settings, "tries": {}}
    before = earlier(options.name)
    if before and before["settings"] != settings:
        raise SystemExit(f"{options.name} is of other settings: {before['settings']}; give another --name.")
    result["tries"] = before.get("tries", {})
    failed = run_all(options, result)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
