"""Which tokens to run again: orders of the later tokens, by what is left at equal numbers of tokens.

    python -m benchmarks.choice --model DIR --data FOLDER --out qwen.jsonl --cases 40 --gpus 4 --processes 16
    python -m benchmarks.choice --table qwen.jsonl
    python -m benchmarks.choice --save choice --rows qwen.jsonl smollm2.jsonl

Every order closes the gap, runs its first tokens again, and is judged by the divergence from never-saw, on the suites
of `kv-memory eval`. The engine keeps the queries of all layers in float32. Rows are appended to the file, whose first
line says where they come from; called again, cases that are there are left out. `--save` writes the summary of some
files to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import traceback
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import choice_summary
from benchmarks.record import environment

SUITES = ("documents", "memory", "transcripts", "distance", "needle")
SHARES = (0.05, 0.1, 0.25)
LAYER_SHARE = 0.15
"""Share of the later tokens that each single layer chooses."""
BLOCK = 16
"""Tokens of a block, each of which is tried alone."""
_state: dict[str, Any] = {}


def start(model: str, data: str, gpus: Any, settings: dict[str, Any]) -> None:
    """Make this worker's engine, which keeps the queries of all layers."""
    gpu = gpus.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch
    from transformers import AutoConfig

    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    depth = AutoConfig.from_pretrained(model).num_hidden_layers
    engine = TransformersEngine.load(model, dtype="float32", probe_layers=tuple(range(depth)))
    _state.update(engine=engine, form=ChatFormat(engine.tokenizer), data=data, suites={}, **settings)


def measure(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Measure one case of a suite; of one that fails the error is printed, and there are no rows."""
    suite, number = job
    try:
        case = None if time.time() > _state["until"] else case_at(suite, number)
        return [] if case is None else rows_of(case, suite, number)
    except Exception:
        traceback.print_exc()
        return []


def case_at(suite: str, number: int) -> Any:
    """Return a case of a suite; None where it has fewer."""
    from kv_memory.evaluation.suites.registry import get_suite
    from kv_memory.evaluation.suites.source import Source

    if suite not in _state["suites"]:
        source = Source(_state["form"], seed=_state["seed"], longest=_state["longest"], data=Path(_state["data"]))
        _state["suites"][suite] = get_suite(suite)(source), []
    found, cases = _state["suites"][suite]
    cases.extend(islice(found, max(0, number + 1 - len(cases))))
    return cases[number] if number < len(cases) else None


def rows_of(case: Any, suite: str, number: int) -> list[dict[str, Any]]:
    """Return a row for each order and share."""
    import torch

    from kv_memory.evaluation.trial import trial

    with trial(_state["engine"], case) as this, torch.inference_mode():
        tries = Tries(this)
        tries.note(choice_summary.NOTHING, 0.0, this.run(None))
        tries.note("shift", 0.0, tries.run([]))
        tries.orders(_state["shares"])
        tries.layers(_state["every"])
        if number < _state["blocks"]:
            tries.blocks(_state["shares"])
    base = {"suite": suite, "case": case.name, "kind": case.kind, "number": number}
    base |= {"following": case.following, "erased": case.erased, "groups": dict(case.groups)}
    return [{**base, **row} for row in tries.rows]


class Tries:
    """The orders tried on one case, and their rows."""

    def __init__(self, this: Any) -> None:
        from benchmarks.choice_scores import Reading, asked, changes, scores

        self.this = this
        self.engine = this.engine
        self.rows: list[dict[str, Any]] = []
        self.reading = Reading.of(this)
        self.later = self.reading.later
        self.scores, self.among = scores(self.reading)
        oracle, self.change = changes(self.reading, self.scores["received"])
        self.scores |= oracle
        self.scores["mass x attention of the question"] = self.scores["mass"] * asked(self.reading)

    def note(self, order: str, share: float, found: Any) -> None:
        """Add a row."""
        self.rows.append({"order": order, "share": share, "kl": found.kl, "agrees": found.agrees})

    def count(self, share: float) -> int:
        """Return a share of the later tokens, in tokens."""
        return math.ceil(share * len(self.later))

    def run(self, chosen: list[int], layers: range | None = None) -> Any:
        """Close the gap and run tokens again, given as indices of the later ones, in all layers or in these alone."""
        from kv_memory.erasers.shift import Shift
        from kv_memory.positions import moved

        seq = self.engine.fork(self.this.read)
        try:
            done = Shift().erase(self.engine, seq, self.this.case.spans)
            places = [moved(self.later[i], done.moves) for i in chosen]
            if layers is None:
                self.engine.reencode(seq, places)
            else:
                self.run_layers(seq, places, [self.later[i] for i in chosen], layers)
            return self.this.outcome(self.this.score(seq))
        finally:
            self.engine.free(seq)

    def run_layers(self, seq: int, places: list[int], old: list[int], layers: range) -> None:
        """Run cells again in some layers; what enters the first of them is as it was when the context was read.

        `places`, `old`: the cells' positions now, and as they were read.
        """
        store, forward = self.engine._get(seq).store, self.engine._forward
        slots = store.find(places)
        before = store.read(slots)
        stream = self.reading.entering[layers.start][old] if layers.start else None

        def replace(module: Any, args: Any, kwargs: Any) -> Any:
            return None if stream is None else ((stream.to(args[0].device)[None], *args[1:]), kwargs)

        module = forward.model.get_decoder().layers[layers.start]
        handle = module.register_forward_pre_hook(replace, with_kwargs=True)
        chunk, forward.chunk = forward.chunk, 10**6
        try:
            self.engine.reencode(seq, places)
        finally:
            handle.remove()
            forward.chunk = chunk
        for layer in range(store.layout.layers):
            if layer not in layers:
                store.put(layer, slots, before.keys[layer], before.values[layer])
        self.engine._get(seq).logits = None

    def orders(self, shares: list[float]) -> None:
        """Try every order, and twice as many tokens in half of the layers."""
        from benchmarks.choice_scores import best, choices

        depth = len(self.among)
        parts = {
            "2x tokens, upper half of layers": range(depth // 2, depth),
            "2x tokens, lower half of layers": range(depth // 2),
            "2x tokens, middle half of layers": range(depth // 4, depth - depth // 4),
        }
        for share in shares:
            count = self.count(share)
            for name, chosen in choices(self.scores, self.among, self.change, count).items():
                self.note(name, share, self.run(chosen))
            for name, layers in parts.items():
                self.note(name, share, self.run(best(self.scores["mass"], 2 * count), layers))

    def layers(self, every: int) -> None:
        """Try the attention mass at single layers."""
        from benchmarks.choice_scores import best

        for layer in range(0, len(self.among), every):
            mass = self.engine.influence(self.this.read, self.this.case.spans, layers=[layer])[1][0]
            found = self.run(best(mass, self.count(LAYER_SHARE)))
            self.note(f"{choice_summary.LAYER}{layer}", LAYER_SHARE, found)

    def blocks(self, shares: list[float]) -> None:
        """Try blocks in the order of what is left when each alone is run again, and rank the scores beside it."""
        import torch

        from benchmarks.choice_scores import best

        size = len(self.later)
        left = [self.run(list(range(at, min(at + BLOCK, size)))).kl for at in range(0, size, BLOCK)]
        gain = -torch.tensor(left, device=self.among.device)
        for share in shares:
            chosen = best(gain.repeat_interleave(BLOCK)[:size], self.count(share))
            self.note(choice_summary.BLOCKS, share, self.run(chosen))
        ranks = {name: rank_correlation(gain, score) for name, score in self.scores.items()}
        self.rows.append({"order": choice_summary.RANKS, "share": 0.0, "ranks": ranks})


def rank_correlation(gain: Any, score: Any) -> float:
    """Return Spearman's correlation of a score, summed in blocks, with the gain of each block."""
    import torch

    blocks = [float(score[at : at + BLOCK].sum()) for at in range(0, len(score), BLOCK)]
    first = gain.argsort().argsort().float()
    second = torch.tensor(blocks, device=gain.device).argsort().argsort().float()
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def run(args: argparse.Namespace) -> None:
    """Measure the cases that the file lacks, until the time is over."""
    settings = {name: getattr(args, name) for name in ("blocks", "longest", "shares", "every", "seed")}
    settings["until"] = time.time() + 60 * args.minutes
    context = get_context("spawn")
    gpus = context.Manager().Queue()
    for number in range(args.processes):
        gpus.put(number % args.gpus if args.gpus else None)
    if not args.out.exists():
        where = environment(args.seed)
        if args.gpus > 1:
            where["hardware"] = f"{args.gpus} x {where['hardware']}"
        origin = {"model": args.label or Path(args.model).name, "dtype": "float32", "longest": args.longest, **where}
        args.out.write_text(json.dumps(origin) + "\n", "utf-8")
    known = {(row["suite"], row["number"]) for row in choice_summary.read(args.out)[1]}
    jobs = [(suite, number) for number in range(args.cases) for suite in args.suites if (suite, number) not in known]
    with (
        context.Pool(args.processes, start, (args.model, args.data, gpus, settings)) as pool,
        args.out.open("a", encoding="utf-8") as file,
    ):
        for rows in pool.imap_unordered(measure, jobs):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="print the tables of a file of rows")
    parser.add_argument("--save", metavar="NAME", help="write the summary of --rows to benchmarks/results/NAME.json")
    parser.add_argument("--rows", type=Path, nargs="+", help="files of rows, one a model")
    parser.add_argument("--model", help="folder of the model")
    parser.add_argument("--label", help="name of the model in the summary; by default that of its folder")
    parser.add_argument("--data", help="folder with the data sets' files")
    parser.add_argument("--out", type=Path, help="file of rows")
    parser.add_argument("--suites", nargs="+", default=list(SUITES))
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=6, help="cases of each suite in which blocks are tried alone")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--longest", type=int, default=4096)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--every", type=int, default=1, help="try one in this number of single layers")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.table:
        choice_summary.show(args.table)
    elif args.save:
        choice_summary.write(args.save, args.rows)
    else:
        run(args)


if __name__ == "__main__":
    main()
