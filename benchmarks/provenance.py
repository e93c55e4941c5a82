"""Does scoring find what depended on a span; does erasing rank what an answer rests on as recomputing does.

    python -m benchmarks.provenance --worlds 150 --tokens 600 1500 [--model DIR]

Dependence: an unseen world, then questions about one of its messages and others that it does not touch, each with the
world's answer as the assistant's turn. The message is retracted; the simulator says which answers would have been
others. Reported: the area under the curve of the fall in log-probability, by eraser; the threshold at which one in a
hundred of the answers that did not depend is called dependent, and how many of the others are found there; time.

Attribution: the last answer of each conversation, by `Session.attribute` with each eraser against `recompute`: rank
correlation (Spearman) over the messages, how often both name the same message first, and time.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from statistics import correlation, mean, median
from typing import Any

from benchmarks.record import environment, save
from kv_memory import Memory
from kv_memory.calibration.estimates import wilson
from kv_memory.synthetic.worlds import World, make_world, reply

ERASERS = ("recompute", "drop", "shift", "influence", "shift+influence")
FIRST = 9_000_000


def conversations(worlds: int, tokens: int) -> Iterator[tuple[World, str, list[dict[str, Any]], dict[str, bool]]]:
    """Yield a world, a message to retract, the conversation with answered questions, and which answers depend on it."""
    for seed in range(FIRST, FIRST + worlds):
        world, rng = make_world(seed, tokens, "test"), Random(seed)
        about: dict[str, list[Any]] = defaultdict(list)
        for probe in world.probes:
            if probe.kind not in ("call", "injection"):
                about[probe.target].append(probe)
        if not about:
            continue
        target, probes = max(about.items(), key=lambda item: len({p.answer != p.without for p in item[1]}))
        messages, labels = [*world.messages], {}
        for number, probe in enumerate(rng.sample(probes, len(probes))):
            messages.append({"role": "user", "content": probe.question, "id": f"q{number}"})
            messages.append(reply(probe.answer, None) | {"id": f"a{number}"})
            labels[f"a{number}"] = probe.answer != probe.without
        yield world, target, messages, labels


def area(yes: list[float], no: list[float]) -> float:
    """Return the chance that a dependent turn scores higher than another (half for a tie)."""
    return mean((a > b) + 0.5 * (a == b) for a in yes for b in no)


def ranks(values: list[float]) -> list[float]:
    """Return ascending ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    places = dict(zip(order, range(len(values)), strict=True))
    return [float(places[i]) for i in range(len(values))]


def dependence(memory: Memory, worlds: int, tokens: int) -> dict[str, Any]:
    """Return by eraser: area, threshold, share found, seconds with and without scoring."""
    scores: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for world, target, messages, labels in conversations(worlds, tokens):
        session = memory.session("base")
        session.prefill(messages, world.tools)
        for name in ERASERS:
            times = []
            for cascade in ("report", None):
                with session.fork() as fork:
                    started = time.perf_counter()
                    report = fork.retract(target, eraser=name, cascade=cascade)
                    times.append(time.perf_counter() - started)
                for found in report.dependences:
                    if found.message_id in labels:
                        scores[name][labels[found.message_id]].append(found.drop)
            seconds[name].append((times[0], times[1]))
        memory.delete_session("base")
    result = {}
    for name, drops in scores.items():
        yes, no = drops[True], sorted(drops[False])
        threshold = no[int(0.99 * len(no))]
        result[name] = {
            "dependent": len(yes),
            "others": len(no),
            "area": round(area(yes, no), 4),
            "threshold": round(threshold, 4),
            "found": round(mean(score > threshold for score in yes), 4),
            "seconds": round(median(t[0] for t in seconds[name]), 4),
            "seconds without scoring": round(median(t[1] for t in seconds[name]), 4),
        }
        print(tokens, name, result[name], flush=True)
    return result


def attribution(memory: Memory, worlds: int, tokens: int) -> dict[str, Any]:
    """Return by eraser: agreement with recompute, and time as a share of its time."""
    found: dict[str, list[tuple[float, bool, float]]] = defaultdict(list)
    for world, _, messages, labels in conversations(worlds, tokens):
        session = memory.session("base")
        session.prefill(messages, world.tools)
        results = {}
        for name in ERASERS:
            started = time.perf_counter()
            drops = {item.span.id: item.drop for item in session.attribute(list(labels)[-1], eraser=name)}
            results[name] = (drops, time.perf_counter() - started)
        exact, cost = results["recompute"]
        for name, (drops, seconds) in results.items():
            first = max(drops, key=drops.__getitem__) == max(exact, key=exact.__getitem__)
            rank = correlation(ranks([drops[i] for i in exact]), ranks(list(exact.values())))
            found[name].append((rank, first, seconds / cost))
        memory.delete_session("base")
    result = {}
    for name, rows in found.items():
        result[name] = {
            "answers": len(rows),
            "rank correlation": round(mean(row[0] for row in rows), 4),
            "same first": wilson(sum(row[1] for row in rows), len(rows)).model_dump(),
            "time as a share of recompute's": round(median(row[2] for row in rows), 4),
        }
        print(tokens, name, result[name], flush=True)
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=150)
    parser.add_argument("--tokens", type=int, nargs="+", default=[600, 1500])
    parser.add_argument("--model")
    parser.add_argument("--name", default="provenance")
    options = parser.parse_args()
    memory = Memory(options.model, heal="never", cache_tokens=1 << 20)
    lengths = {
        str(tokens): {
            "dependence": dependence(memory, options.worlds, tokens),
            "attribution": attribution(memory, options.worlds // 3, tokens),
        }
        for tokens in options.tokens
    }
    save(options.name, {**environment(FIRST), "model": memory.engine.name, "worlds": options.worlds, "tokens": lengths})


if __name__ == "__main__":
    main()
