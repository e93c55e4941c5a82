"""Exact match by class and eraser, agreement with never-saw, residual influence and erase time, on the pocket model.

    python -m benchmarks.quality --probes 100 --lengths 512 1024 2048 --workers 2

Each probe is a question on an unseen world: the conversation is prefilled once, forked, the probe's span retracted from
the fork by each eraser, and the question asked. Times are those of `Session.retract` on the same conversation in the
same run; the ratio to `recompute` is taken probe by probe.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from multiprocessing import get_context
from statistics import mean, median
from typing import Any

from kv_memory.pocket.drafts import KINDS

NO_ERASE, NEVER_SAW = "no erase", "never-saw"


def measure(job: tuple[int, int, int, int, list[str], str | None]) -> list[dict[str, Any]]:
    """One worker's share: probes of every kind at one length, from worlds seed, seed + stride, ..."""
    seed, stride, tokens, wanted, erasers, model = job
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    from kv_memory import Memory
    from kv_memory.erasers import get_eraser
    from kv_memory.evaluation.metrics import mean_kl
    from kv_memory.pocket.worlds import make_world

    memory = Memory(model, heal="never")
    rows: list[dict[str, Any]] = []
    have: dict[str, int] = defaultdict(int)
    while min(have[kind] for kind in KINDS) < wanted:
        world = make_world(seed, tokens, split="test")
        seed += stride
        probes = {p.kind: p for p in world.probes if have[p.kind] < wanted}
        if not probes:
            continue
        read = memory.session("read")
        read.prefill(world.messages, world.tools)
        for probe in probes.values():
            have[probe.kind] += 1
            asked = [*world.messages, {"role": "user", "content": probe.question}]
            never = memory.session("never")
            never.prefill(world.messages, world.tools, without=[probe.target])
            oracle = never.fork("a").chat(asked, world.tools, max_tokens=32).text
            reference = never.score(asked, oracle, world.tools)
            row: dict[str, Any] = {"kind": probe.kind, "answers": {NEVER_SAW: oracle == probe.without}}
            row |= {"agree": {}, "kl": {}, "seconds": {}, "recomputed": {}}
            for name in [NO_ERASE, *erasers]:
                fork = read.fork("b")
                if name != NO_ERASE:
                    eraser, _, k = name.partition(" ")
                    chosen = get_eraser(eraser)
                    if k:
                        chosen = type(chosen)(int(k))  # type: ignore[call-arg]
                    report = fork.retract(probe.target, eraser=chosen)
                    row["seconds"][name] = report.seconds
                    row["recomputed"][name] = report.tokens_recomputed
                row["kl"][name] = mean_kl(reference, fork.score(asked, oracle, world.tools))
                answer = fork.chat(asked, world.tools, max_tokens=32).text
                # by the world's own answer: what is right when the span was not read
                row["answers"][name] = answer == probe.without
                row["agree"][name] = answer == oracle
                memory.forget("b")
            memory.forget("a")
            memory.forget("never")
            rows.append(row)
        memory.forget("read")
    return rows


def summarise(rows: list[dict[str, Any]], erasers: list[str]) -> dict[str, Any]:
    """Tables by kind and eraser from the rows of one length."""
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    names = [NO_ERASE, *erasers]
    return {
        "probes": {kind: len(found) for kind, found in by_kind.items()},
        "exact_match": {
            kind: {name: mean(row["answers"][name] for row in found) for name in [*names, NEVER_SAW]}
            for kind, found in by_kind.items()
        },
        "agreement": {
            kind: {name: mean(row["agree"][name] for row in found) for name in names} for kind, found in by_kind.items()
        },
        "residual_influence": {
            kind: {
                name: mean(row["kl"][name] for row in found) / max(mean(row["kl"][NO_ERASE] for row in found), 1e-9)
                for name in erasers
            }
            for kind, found in by_kind.items()
            if kind != "keep"  # there is next to no influence to remove
        },
        "erase_milliseconds_median": {name: 1e3 * median(row["seconds"][name] for row in rows) for name in erasers},
        "erase_time_over_recompute_median": {
            name: median(row["seconds"][name] / row["seconds"]["recompute"] for row in rows) for name in erasers
        },
        "tokens_recomputed_mean": {name: mean(row["recomputed"][name] for row in rows) for name in erasers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=100, help="of each class and length")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first world")
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--name", default="quality")
    args = parser.parse_args()
    erasers = ["recompute", "drop", "shift", "repair", "selective", "influence 8", "influence"]

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from benchmarks.record import environment, save

    result: dict[str, Any] = {**environment(args.seed), "model": args.model or "pocket", "lengths": {}}
    with get_context("spawn").Pool(args.workers) as pool:
        for tokens in args.lengths:
            started = time.time()
            share = -(-args.probes // args.workers)
            jobs = [
                (args.seed + worker, args.workers, tokens, share, erasers, args.model) for worker in range(args.workers)
            ]
            rows = [row for part in pool.map(measure, jobs) for row in part]
            result["lengths"][str(tokens)] = summarise(rows, erasers)
            print(f"{tokens} tokens: {len(rows)} probes in {time.time() - started:.0f} s", flush=True)
            for kind, row in result["lengths"][str(tokens)]["exact_match"].items():
                print(f"  {kind:10}" + "".join(f"  {name} {value:.3f}" for name, value in row.items()), flush=True)
            save(args.name, result)


if __name__ == "__main__":
    main()
