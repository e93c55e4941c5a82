"""Which trained eraser is best: each try is trained for some minutes, then its answers compared (eraser_answers.py).

    python -m benchmarks.eraser_ablations --minutes 4 [--tries published "16 slots"] [--model DIR] [--text PATH]

One try a GPU at a time, each in a process of its own; on a machine without one, one after the other. Everything goes to
benchmarks/results/NAME.json as soon as a try is done; called again, those that are there are left out, and a training
that was killed goes on from its checkpoint. A try's steps are as many as fit its minutes at the pace that is measured
first; they are kept in its plan.json. The trained erasers stay in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.eraser_answers import show
from benchmarks.record import earlier, environment, save
from kv_memory.engines.threads import wait_passively


@dataclass(frozen=True)
class Try:
    """One training: its Plan's fields beside BASE and the command's, and its share of the minutes."""

    prediction: str
    options: dict[str, Any] = field(default_factory=dict)
    minutes: float = 1.0


BASE: dict[str, Any] = {"warm_up": 50}
NEAR: dict[str, Any] = {"near_drop_steps": 100}
WITH_REPAIR: dict[str, Any] = {"repair": 8, "repair_share": 0.5}

LARGE: dict[str, Any] = {"learning_rate": 1e-3, "tokens": 65536, "balance": {"binding": 4.0}}
LONG: dict[str, Any] = {**LARGE, "balance": {"binding": 4.0, "preference": 4.0, "injection": 2.0}}
FURTHER: dict[str, Any] = {
    **LARGE,
    **WITH_REPAIR,
    "balance": {"binding": 4.0, "preference": 4.0, "restore": 2.0},
    "slots": 4,
    "closes": True,
}
"""Tries for --start, which continue from a trained eraser."""
MANY: dict[str, Any] = {"questions": 16}

TRIES: dict[str, Try] = {
    "published": Try("below drop on restore and keep after minutes, above it on binding"),
    "near drop": Try("never below drop from the start; binding as published", NEAR),
    "16 slots": Try("as published: the states need not be many", {"slots": 16}),
    "4 slots": Try("a little below 16 on binding", {"slots": 4}),
    "1 slot": Try("close to drop everywhere", {"slots": 1}),
    "16 spread slots": Try("above 16 first ones: they read the whole span", {"slots": 16, "spread": True}),
    "4 spread slots": Try("above 4 first ones", {"slots": 4, "spread": True}),
    "seeing the suffix": Try("binding well above published: the slots see what is to be undone", {"sees_suffix": True}),
    "content-free": Try("starts near drop; then as published, injection better", {"content_free": True}),
    "16 content-free slots that see the suffix": Try(
        "as seeing the suffix, and cannot pass the span on", {"content_free": True, "slots": 16, "sees_suffix": True}
    ),
    "repair 8": Try("steer+influence 8 at least influence 32; steer alone below published", {"repair": 8}),
    "repair 8 in half of the steps": Try("steer+influence 8 as above, steer alone as published", WITH_REPAIR),
    "rank 4": Try("a point below rank 16", {"rank": 4, "alpha": 8}),
    "rank 64": Try("a point above rank 16 on binding", {"rank": 64, "alpha": 128}),
    "binding drawn 4 times": Try("binding up by some points, the others as they were", {"balance": {"binding": 4.0}}),
    "batches of 4K tokens": Try("noisier, more steps: below 16K", {"tokens": 4096}),
    "batches of 64K tokens": Try("fewer steps: below 16K in so few minutes", {"tokens": 65536}),
    "learning rate 1e-3": Try("faster, not worse at the end", {"learning_rate": 1e-3}),
    "three times as long": Try("binding up by some points", minutes=3.0),
    "near drop, seeing the suffix, repair": Try(
        "the best of the table", {**NEAR, **WITH_REPAIR, "sees_suffix": True, "balance": {"binding": 4.0}}
    ),
    "large": Try("binding well above drop, all else as never-saw", LARGE),
    "large, repair": Try("steer alone as large, steer+influence 8 at least influence 32", {**LARGE, **WITH_REPAIR}),
    "large, seeing the suffix": Try("binding above large", {**LARGE, "sees_suffix": True}),
    "large, seeing the suffix, repair": Try("the best of the four", {**LARGE, **WITH_REPAIR, "sees_suffix": True}),
    "long": Try("all classes within a point of never-saw but binding; preference no longer as drop", LONG),
    "long, repair": Try("steer alone as long, steer+influence 8 at least influence 32", {**LONG, **WITH_REPAIR}),
    "long, 16 slots, gap closed, repair": Try(
        "above all with a gap once tokens are run again: what is read again stands where it would have stood",
        {**LONG, **WITH_REPAIR, "slots": 16, "closes": True},
    ),
    "long, 4 slots, gap closed, repair": Try("a little below 16", {**LONG, **WITH_REPAIR, "slots": 4, "closes": True}),
    "long, 16 slots, gap closed, repair, rank 64": Try(
        "a point above rank 16 on binding, nothing else changed",
        {**LONG, **WITH_REPAIR, "slots": 16, "closes": True, "rank": 64, "alpha": 128},
    ),
    "further": Try("a point up on restore and binding, keep as it is", FURTHER),
    "further, 16 questions": Try(
        "keep up by half a point and preference by five: a batch has three times as many", {**FURTHER, **MANY}
    ),
    "further, 16 questions, mass .1": Try(
        "keep as drop, binding some points below", {**FURTHER, **MANY, "mass_weight": 0.1}
    ),
    "further, 16 questions, 2 slots": Try(
        "keep a little above 4 slots, binding a little below", {**FURTHER, **MANY, "slots": 2}
    ),
}

SETTINGS = ("model", "minutes", "tokens", "train_lengths", "lengths", "questions")
"""Settings that the tries of one result file have in common."""
TEXT_SHARE = 0.1
"""Share of the steps that are stage 1."""
PACE = 20.0
"""Seconds that measuring the pace takes at most; a tenth of a try's minutes where that is less."""
OVERHEAD = 150.0
"""Seconds that a try takes beside its training, until one is done and tells."""


def home(name: str, options: argparse.Namespace) -> Path:
    """Return a try's folder."""
    folder: Path = options.folder / name.replace(" ", "-").replace(",", "")
    return folder


class _Enough(Exception):  # noqa: N818  # not an error: it ends the training that measures the pace
    pass


def train(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one try in its folder, or continue it; return the steps, seconds and last loss."""
    from kv_memory.training.plan import Plan
    from kv_memory.training.run import RUN, run
    from kv_memory.training.trainer import CHECKPOINT, LOG

    plan_file = folder / "plan.json"
    if not plan_file.exists():
        plan = planned(name, options)
        folder.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(plan.model_dump_json(indent=1) + "\n")
    plan = Plan.model_validate_json(plan_file.read_text())
    started = time.monotonic()
    if not (folder / "eraser.json").exists():
        resume = (folder / RUN / CHECKPOINT).exists()
        every = max(1, plan.steps // 2)
        given = (options.model, str(options.text), folder, plan)
        run(*given, start=options.start, workers=options.workers, resume=resume, every=every)
    last = json.loads((folder / RUN / LOG).read_text().splitlines()[-1])
    return {"steps": plan.steps, "seconds": round(time.monotonic() - started), "loss": last["loss"]}


def planned(name: str, options: argparse.Namespace) -> Any:
    """Return the try's Plan, with as many steps as fit the minutes."""
    from kv_memory.training.plan import Plan
    from kv_memory.training.run import run

    this = TRIES[name]
    settings: dict[str, Any] = BASE | {
        "lengths": tuple(options.train_lengths),
        "tokens": options.tokens,
        "seed": options.seed,
    }
    settings |= this.options
    seconds, times = 60 * options.minutes * this.minutes, [time.monotonic()]

    def count(step: int, loss: float, table: object) -> None:
        times.append(time.monotonic())
        if times[-1] - times[1] > min(PACE, 0.1 * seconds) and len(times) > 3:
            raise _Enough

    endless = Plan.of(**settings | {"near_drop_steps": 0, "text_steps": 0, "task_steps": 1_000_000})
    with TemporaryDirectory() as scratch, suppress(_Enough):
        given = (options.model, str(options.text), Path(scratch), endless)
        run(*given, start=options.start, workers=options.workers, report=count)
    settled = times[len(times) // 3 :]  # workers and kernels are warm
    steps = max(1, int(seconds * (len(settled) - 1) / (settled[-1] - settled[0])))
    text = round(TEXT_SHARE * steps)
    near = min(settings.get("near_drop_steps", 0), steps // 4)
    return Plan.of(
        **settings | {"near_drop_steps": near, "text_steps": text, "task_steps": max(1, steps - text - near)}
    )


def one(name: str, options: argparse.Namespace) -> None:
    """Train and evaluate a try, in this process; its result goes to result.json in its folder."""
    import torch

    from benchmarks.eraser_answers import evaluate

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    folder = home(name, options)
    trained = train(name, folder, options)
    started = time.monotonic()
    answers = evaluate(
        options.model, folder, lengths=options.lengths, questions=options.questions, workers=options.workers
    )
    result = {
        "prediction": TRIES[name].prediction,
        "options": TRIES[name].options,
        "environment": environment(options.seed),
        "weights": json.loads((folder / "eraser.json").read_text())["weights"],
        "training": trained,
        "evaluation_seconds": round(time.monotonic() - started),
        "lengths": answers,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def write_text(path: Path, worlds: int) -> None:
    """Write text for stage 1: what is said in conversations of the training split."""
    from kv_memory.synthetic.worlds import make_world

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as text:
        for seed in range(worlds):
            messages = make_world(seed, 1024).messages
            text.writelines(f"{message['content']}\n" for message in messages if message.get("content"))


def run_all(names: list[str], options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Run tries in processes of their own, one a GPU at a time; return the names of those that failed."""
    import torch

    count = torch.cuda.device_count()
    free: SimpleQueue[int | None] = SimpleQueue()
    for gpu in range(count) or [None]:
        free.put(gpu)
    options.workers = options.workers or max(1, (os.cpu_count() or 2) // max(1, count) - 2)
    started, failed = time.monotonic(), []
    overheads: list[float] = []

    def attempt(name: str) -> None:
        begun, trained = time.monotonic(), 60 * options.minutes * TRIES[name].minutes
        left = options.stop_after - (begun - started)
        if left < trained + max(overheads, default=OVERHEAD):
            print(f"{name}: not started, {left:.0f} s are left", flush=True)
            return
        gpu = free.get()
        folder = home(name, options)
        folder.mkdir(parents=True, exist_ok=True)
        environ = dict(os.environ) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)})
        command = [sys.executable, "-m", "benchmarks.eraser_ablations", "--one", name, *arguments(options)]
        with (folder / "output.txt").open("w") as log:
            code = subprocess.run(command, env=environ, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        free.put(gpu)
        overheads.append(time.monotonic() - begun - trained)
        if code:
            failed.append(name)
            print(f"{name} failed:", *(folder / "output.txt").read_text().splitlines()[-15:], sep="\n", flush=True)
            return
        result["tries"][name] = json.loads((folder / "result.json").read_text())
        save(options.name, result)
        print(f"{name}:", flush=True)
        show(result["tries"][name]["lengths"])

    with ThreadPoolExecutor(max(1, count)) as pool:
        list(pool.map(attempt, names))
    return failed


def arguments(options: argparse.Namespace) -> list[str]:
    """Return the options of a try's process."""
    given = []
    for name in (*SETTINGS, "seed", "workers", "folder", "text", "start"):
        value = getattr(options, name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        given += [f"--{name.replace('_', '-')}", *map(str, values)] if values else []
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", nargs="+", choices=TRIES, default=list(TRIES), metavar="NAME", help="default: all")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training a try")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; start no try that ends later")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096], help="of contexts that are asked about")
    parser.add_argument("--train-lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="of contexts")
    parser.add_argument("--tokens", type=int, default=16384, help="of a batch, where a try says nothing else")
    parser.add_argument("--questions", type=int, default=200, help="of each class and length, at least")
    parser.add_argument("--workers", type=int, default=0, help="processes of a try; default: by the machine's cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--text", type=Path, help="for stage 1; default: of generated conversations")
    parser.add_argument("--start", type=Path, help="a trained eraser that all tries go on from")
    parser.add_argument("--folder", type=Path, default=Path("runs/eraser_ablations"))
    parser.add_argument("--name", default="eraser_ablations", help="of the result file")
    parser.add_argument("--one", choices=TRIES, metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wait_passively()
    if options.one:
        one(options.one, options)
        return
    if options.text is None:
        options.text = options.folder / "text.txt"
        write_text(options.text, 300)
    settings = {name: getattr(options, name) for name in SETTINGS}
    result: dict[str, Any] = {**environment(options.seed), "settings": settings, "tries": {}}
    before = earlier(options.name)
    if before:
        if (before["settings"], before["seed"]) != (settings, options.seed):
            raise SystemExit(f"{options.name} is of other settings: {before['settings']}; give another --name.")
        result["tries"] = before["tries"]
    failed = run_all([name for name in options.tries if name not in result["tries"]], options, result)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
