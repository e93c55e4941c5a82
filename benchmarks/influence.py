"""Does `influence` hold: answers against never-saw by class, eraser, k and length; and what its score needs.

    python -m benchmarks.influence --probes 200 --ablate 100 --lengths 1024 2048 4096 8192 --workers 12

Questions on unseen worlds, one of each class from a world; every eraser works on a copy of the same cells. An answer
agrees if greedy decoding gives never-saw's; it is right if it is the world's own for a reader who never saw the span.
The first `--ablate` probes of a class also try every probe layer, normaliser and second-order variant at k = 32. Time
is benchmarks/latency.py's matter: workers share one device here. The result is written after each length; called again
with the same seed, lengths that are there are left out. `--minutes` ends a length early, with the probes that it has.
All rows are in runs/results; benchmarks/results has those that are shown.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from multiprocessing import get_context
from statistics import mean
from typing import Any

from kv_memory.engines.threads import wait_passively
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.synthetic.drafts import KINDS

LAYER, K = 5, 32
WORLDS_A_PROBE = 40
WHOLE = ("environment", "all", "binding")
VARIANT = re.compile(r"layer|mean of|max of|hops|scored again|largest change")
_state: dict[str, Any] = {}


def start(model: str | None, ks: Sequence[int], gpus: Any) -> None:
    """Make this worker's engine, which keeps the queries of all layers, and its erasers; on the next of the GPUs."""
    wait_passively()
    if not gpus.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    import torch
    from transformers import AutoConfig

    from kv_memory.conversation.chat_format import ChatFormat
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.pocket import model_path

    torch.set_num_threads(1)
    path = model or str(model_path())
    depth = AutoConfig.from_pretrained(path).num_hidden_layers
    engine = TransformersEngine.load(path, probe_layers=tuple(range(depth)))
    _state.update(engine=engine, form=ChatFormat(engine.tokenizer), main=main_erasers(ks), more=ablations(depth))


def main_erasers(ks: Sequence[int]) -> dict[str, Any]:
    """Return the erasers of question 1; those that choose tokens with each of these k. None erases nothing."""
    from kv_memory.erasers import ERASERS
    from kv_memory.erasers.influence import Influence
    from kv_memory.erasers.shift_influence import ShiftInfluence

    found: dict[str, Any] = {NO_ERASE: None}
    found |= {name: ERASERS[name]() for name in ("recompute", "drop", "shift", "repair", "selective")}
    for kind in (Influence, ShiftInfluence):
        found |= {f"{kind.name} {k}": kind(k, layers=[LAYER]) for k in ks}
    return found


def ablations(depth: int) -> dict[str, Any]:
    """Return the variants of questions 2 and 3, all with k tokens and the gap closed: an open one hides differences."""
    from benchmarks.variants import ByDeviation, Rescored
    from kv_memory.engines.parts import Normaliser
    from kv_memory.erasers.influence import Combine
    from kv_memory.erasers.shift_influence import ShiftInfluence

    found: dict[str, Any] = {f"layer {layer}": ShiftInfluence(K, layers=[layer]) for layer in range(depth)}
    combines: tuple[Combine, ...] = ("mean", "max")
    for combine in combines:
        found[f"{combine} of all layers"] = ShiftInfluence(K, combine=combine)
    normalisers: tuple[Normaliser, ...] = ("sampled", "none")
    for normaliser in normalisers:
        found[f"layer {LAYER}, {normaliser}"] = ShiftInfluence(K, layers=[LAYER], normaliser=normaliser)
    found |= {f"hops: {hops}": ShiftInfluence(K, hops=hops, layers=[LAYER]) for hops in (1, 4)}
    found["scored again"] = Rescored(K, layers=[LAYER])
    found["largest change (oracle)"] = ByDeviation(K)
    return found


def measure(job: tuple[int, int, tuple[str, ...], bool]) -> list[dict[str, Any]]:
    """Measure one world: a row for one probe of each wanted class."""
    seed, tokens, wanted, ablate = job
    from kv_memory.evaluation.suites.worlds import world_cases
    from kv_memory.evaluation.trial import trial
    from kv_memory.synthetic.worlds import make_world

    world = make_world(seed, tokens, "test")
    probes = {probe.kind: probe for probe in world.probes if probe.kind in wanted}
    erasers = _state["main"] | (_state["more"] if ablate else {})
    rows = []
    for case in world_cases(_state["form"], world, list(probes.values())):
        with trial(_state["engine"], case) as this:
            right = case.right(this.answer)
            row: dict[str, Any] = {"kind": case.kind, "following": case.following, "erased": case.erased}
            row["found"] = {NEVER_SAW: (0.0, True, right)}
            for name, eraser in erasers.items():
                done = this.run(eraser)
                said = right if done.agrees else case.right(this.answer_after(eraser))
                row["found"][name] = (done.kl, done.agrees, said)
            rows.append(row)
    return rows


def collect(pool: Any, tokens: int, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Collect rows by class, until each has enough, or worlds or time run out; in the order of their worlds."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    seeds, end = count(args.seed), time.monotonic() + 60 * args.minutes
    for _ in range(-(-WORLDS_A_PROBE * args.probes // args.batch)):
        wanted = tuple(kind for kind in KINDS if len(rows[kind]) < args.probes)
        if not wanted or time.monotonic() > end:
            break
        ablate = min(len(rows[kind]) for kind in wanted) < args.ablate
        jobs = [(next(seeds), tokens, wanted, ablate) for _ in range(args.batch)]
        for part in pool.imap(measure, jobs):
            for row in part:
                rows[row["kind"]].append(row)
    return {kind: rows[kind][: args.probes] for kind in KINDS if rows[kind]}


def summarise(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Summarise by class and over all classes: exact match, agreement, residual influence, with 95 % intervals."""
    everything = [row for found in rows.values() for row in found]
    return {kind: dict(_table(found)) for kind, found in {**rows, "all": everything}.items()}


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    from kv_memory.calibration.estimates import ratio, wilson

    yield "probes", len(rows)
    yield "following_mean", mean(row["following"] for row in rows)
    yield "erased_mean", mean(row["erased"] for row in rows)
    for name in dict.fromkeys(name for row in rows for name in row["found"]):
        found = [row for row in rows if name in row["found"]]
        values = [row["found"][name] for row in found]
        base = [row["found"][NO_ERASE][0] for row in found]
        right = [row["found"][NEVER_SAW][2] for row in found]
        yield (
            name,
            {
                "probes": len(found),
                "exact_match": wilson(sum(v[2] for v in values), len(values)).model_dump(),
                "points_below_never_saw": 100 * (mean(right) - mean(v[2] for v in values)),
                "agreement": wilson(sum(v[1] for v in values), len(values)).model_dump(),
                "residual_influence": ratio([v[0] for v in values], base).model_dump(),
            },
        )


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables and plots show: all classes together and *binding*; the others at the length that most is
    known of, without the variants that only the ablations try."""
    lengths = result["lengths"]
    most = max(lengths, key=lambda length: lengths[length]["all"]["probes"])

    def rows(kind: str, found: dict[str, Any]) -> dict[str, Any]:
        if kind in WHOLE:
            return found
        return {name: row for name, row in found.items() if not VARIANT.match(name)}

    kept = {
        length: {kind: rows(kind, found) for kind, found in by_class.items() if length == most or kind in WHOLE}
        for length, by_class in lengths.items()
    }
    return {**result, "lengths": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=200, help="of each class and length")
    parser.add_argument("--ablate", type=int, default=100, help="of them that try the variants too")
    parser.add_argument("--ks", type=int, nargs="+", default=[16, 32, 64, 128], help="tokens to recompute")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of a length, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=0, help="that the workers spread over; default: all share one")
    parser.add_argument("--batch", type=int, default=0, help="worlds at a time; default: two a worker")
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first world")
    parser.add_argument("--model", help="default: the pocket model")
    parser.add_argument("--name", default="influence")
    args = parser.parse_args()
    args.batch = args.batch or 2 * args.workers

    from benchmarks.record import earlier, environment, save

    settings = {"seed": args.seed, "model": args.model or "pocket", "k": K, "layer": LAYER, "ks": args.ks}
    result = earlier(args.name)
    if {key: result.get(key) for key in settings} != settings:
        result = {**settings, "lengths": {}}
    context = get_context("spawn")
    gpus = context.Queue()
    for worker in range(args.workers if args.gpus else 0):
        gpus.put(str(worker % args.gpus))
    with context.Pool(args.workers, start, (args.model, args.ks, gpus)) as pool:
        for tokens in (length for length in args.lengths if str(length) not in result["lengths"]):
            started = time.time()
            table = summarise(collect(pool, tokens, args))
            result["lengths"][str(tokens)] = {"environment": environment(args.seed), **table}
            print(f"{tokens} tokens: {table['all']['probes']} probes in {time.time() - started:.0f} s", flush=True)
            for name, found in table["all"].items():
                if isinstance(found, dict):
                    below, left = found["points_below_never_saw"], found["residual_influence"]["value"]
                    print(f"  {name:26} {below:6.2f} points below never-saw, {left:.4f} left", flush=True)
            save(args.name, result, shown(result))


if __name__ == "__main__":
    main()
