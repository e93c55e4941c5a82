"""The llama.cpp engine against llama.cpp's own ways of forgetting: time and memory by context length.

    python -m benchmarks.llama_cpp

On the pocket model and on random weights of Qwen2.5-0.5B's shape in Q8_0, a span of 100 tokens at 10 % of the context
is erased from a copy of one prefilled sequence. A time ends when the logits of the next token are there, because
llama.cpp moves keys no sooner. Its own ways, on a context of its own with the same cells and without this engine around
it: `reprefill`, seq_rm from the span on and a prefill of the rest, as its prefix cache does; `reuse`, seq_rm of the
span and seq_add of what follows, as its cache reuse by shifting does. A turn is 64 tokens read and 32 written. Figures
are medians; where the prefill of a context takes minutes, it is recomputed only once, and a figure is one measurement.

Each cell, a model at a context length, runs in a process of its own, whose memory is reported, and takes at most
`--minutes`. The result file is written after each; started again, the run continues with those that are missing. A cell
that ran out of time is not missing; `--again` measures all of them again. The machine should do nothing else: each cell
reports what the load was before it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.llama_cpp_cell import SPAN

MODELS = ("pocket", "qwen2-0.5b")
Cell = dict[str, Any]


def missing(result: dict[str, Any], models: list[str], contexts: list[int]) -> list[tuple[str, int]]:
    """Return the cells that the result has no figures of."""
    return [(m, c) for m in models for c in contexts if str(c) not in result["models"].get(m, {})]


def resumed(name: str, header: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier run of the same settings on this machine has left, or an empty result."""
    left = record.earlier(name)
    same = {key: left.get(key) for key in header} == header
    return left if same else {**header, "models": {}}


def fill(result: dict[str, Any], cells: list[tuple[str, int]], name: str, run: Callable[[str, int], Cell]) -> None:
    """Measure these cells, each written to the result file once it is there."""
    for model, context in cells:
        print(f"{model}, {context:,} tokens ...", flush=True)
        before = {"commit": record.commit(), "load_average": os.getloadavg()[0]}
        found = {**before, **run(model, context)}
        result["models"].setdefault(model, {})[str(context)] = found
        record.save(name, result)
        times = found.get("erase_milliseconds_median", {})
        print(", ".join(f"{how} {value:,.0f} ms" for how, value in times.items()), flush=True)
        if found["not_measured"]:
            print("not measured:", *found["not_measured"], flush=True)


class Runner:
    """The runner of cells in processes of their own; makes the models that they need, once."""

    def __init__(self, folder: Path, rounds: int, seed: int, minutes: float) -> None:
        self._folder, self._seed, self._minutes = folder, seed, minutes
        self._settings = ["--rounds", str(rounds), "--seed", str(seed), "--minutes", str(minutes)]
        self._files: dict[str, tuple[Path, Path]] = {}

    def __call__(self, model: str, context: int) -> Cell:
        command = [sys.executable, "-m", "benchmarks.llama_cpp_cell", *map(str, self._made(model)), str(context)]
        try:
            # the cell ends by itself; the limit is for one that hangs
            done = subprocess.run(
                [*command, *self._settings],
                capture_output=True,
                text=True,
                check=False,
                timeout=120 * self._minutes + 60,
            )
        except subprocess.TimeoutExpired:
            return {"not_measured": [f"it was not over after twice {self._minutes:g} minutes"]}
        if done.returncode:
            sys.exit(
                f"{model} at {context:,} tokens ended with {done.returncode}; what is done is kept.\n{done.stderr}"
            )
        found: Cell = json.loads(done.stdout.splitlines()[-1])
        return found

    def _made(self, model: str) -> tuple[Path, Path]:
        if model not in self._files:
            from benchmarks.random_adapter import write_adapter
            from benchmarks.random_gguf import random_gguf
            from kv_memory.gguf import pocket_gguf

            random = self._folder / "random.gguf"
            path = pocket_gguf("f16") if model == "pocket" else random_gguf(random, seed=self._seed)
            self._files[model] = path, write_adapter(path, self._folder / f"{model}-adapter.gguf", self._seed)
        return self._files[model]


def main() -> None:
    """Run the command line."""
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 16_384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="of a cell, at most")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--name", default="llama_cpp")
    args = parser.parse_args()
    header = {**record.environment(args.seed), "span": SPAN, "rounds": args.rounds}
    header["versions"]["llama-cpp-python"] = version("llama-cpp-python")
    del header["commit"]  # each cell has its own
    result = resumed(args.name, header)
    cells = [(m, c) for m in args.models for c in args.contexts] if args.again else None
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(Path(folder), args.rounds, args.seed, args.minutes)
        fill(result, cells or missing(result, args.models, args.contexts), args.name, run)


if __name__ == "__main__":
    main()
