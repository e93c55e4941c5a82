"""One cell of benchmarks/llama_cpp.py: one model at one context length, in a process of its own.

    python -m benchmarks.llama_cpp_cell MODEL ADAPTER CONTEXT --rounds 5 --seed 0 --minutes 40

Prints one line of JSON. What is quick is measured first, in rounds; then what recomputes much of the context, if it can
be done before the minutes are over by the time that prefilling took. What cannot is listed.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kv_memory.engines.threads import wait_passively

if TYPE_CHECKING:
    from kv_memory.engines.llama_cpp import LlamaCppEngine
    from kv_memory.engines.llama_cpp.context import Context

SPAN, READ, WRITTEN = 100, 64, 32
LONG = 20.0
"""Seconds of prefill from which on what recomputes the context is measured once."""
AGAIN = ("recompute", "reprefill", "selective")
"""Erasers that recompute all or much of the context; each took at most 1.3 times as long as prefilling."""
OWN = ("reprefill", "reuse")


class OutOfTimeError(Exception):
    """The context cannot be prefilled within the time."""


def timed(work: Callable[..., object], *arguments: Any) -> float:
    """Return the milliseconds that this work takes."""
    started = time.perf_counter()
    work(*arguments)
    return 1e3 * (time.perf_counter() - started)


class Own:
    """A context of llama.cpp by itself: one sequence, with the same cells as the engine's."""

    def __init__(self, engine: LlamaCppEngine, seq: int, cells: int) -> None:
        from kv_memory.engines.llama_cpp.context import GUARD
        from kv_memory.engines.llama_cpp.library import library

        self._home = GUARD + 1
        self._library = library()
        there = engine._context
        self.context = _bare(engine, cells)
        self._state = there.read(engine._sequences.home(engine._sequences.get(seq)))
        self.restore()

    def restore(self) -> None:
        """Restore the cells as the engine has them."""
        self.context.remove(self._home)
        self.context.write(self._home, self._state)

    def decode(self, ids: list[int], start: int) -> int:
        """Run tokens; return the likeliest next one."""
        return int(self.context.decode(self._home, ids, start, 1)[0].argmax())

    def reprefill(self, ids: list[int], start: int) -> None:
        """Remove everything from the span on and prefill the rest."""
        self.context.remove(self._home, start)
        self.decode(ids[start + SPAN :], start)

    def reuse(self, ids: list[int], start: int) -> None:
        """Remove the span, move what follows, and run the last token once more, with which the keys are turned."""
        self.context.remove(self._home, start, start + SPAN)
        self._library.llama_memory_seq_add(self.context.memory, self._home, start + SPAN, -1, -SPAN)
        last = len(ids) - SPAN - 1
        self.context.remove(self._home, last)
        self.decode(ids[-1:], last)

    def turn(self, ids: list[int], at: int) -> None:
        """Read and write tokens, greedily."""
        token = self.decode(ids, at)
        for position in range(at + len(ids), at + len(ids) + WRITTEN - 1):
            token = self.decode([token], position)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def measure(
    path: Path, adapter: Path, context: int, *, rounds: int, seed: int, seconds: float = float("inf")
) -> dict[str, Any]:
    """Measure all figures of one model and context length that fit in the time; `not_measured` names the others."""
    import torch

    from kv_memory.engines.llama_cpp import LlamaCppEngine
    from kv_memory.erasers import ERASERS
    from kv_memory.trained.files import open_eraser

    positions = context + 256
    # a copy of what follows the span must fit beside it, or erasers would keep it outside for as long
    engine = LlamaCppEngine.load(path, context_length=positions, cells=2 * positions)
    open_eraser(adapter).load(engine)
    ids = torch.randint(1000, 8000, (context,), generator=torch.Generator().manual_seed(seed)).tolist()
    start = context // 10
    began = time.perf_counter()
    # attention goes over all cells in use: of how much the watching costs, the shortest context tells most
    watching = _watching(engine, ids, 2 * rounds) if context <= 1024 else None
    seq = engine.create()
    prefill = timed(_read, engine, seq, ids, began + seconds / 3)
    resident = _resident()
    own = Own(engine, seq, positions)

    def erase(name: str) -> float:
        if name in OWN:
            taken = timed(getattr(own, name), ids, start)
            own.restore()
            return taken
        fork = engine.fork(seq)
        engine.read_cells(fork, [0])  # moves the other one out of the context: no part of an erasure
        taken = timed(_erase, engine, fork, name, start)
        engine.free(fork)
        return taken

    names = [*ERASERS, *OWN]
    times: dict[str, list[float]] = {name: [] for name in names}
    turns: dict[str, list[float]] = {"engine": [], "llama.cpp": []}
    for _ in range(rounds):
        for name in (name for name in names if name not in AGAIN):
            times[name].append(erase(name))
        fork = engine.fork(seq)
        turns["engine"].append(timed(_answer, engine, fork, ids[:READ]))
        engine.free(fork)
        turns["llama.cpp"].append(timed(own.turn, ids[:READ], context))
        own.restore()
    for _ in range(1 if prefill > 1e3 * LONG else rounds):
        for name in AGAIN:
            if time.perf_counter() - began + 1.3 * prefill / 1e3 < seconds:
                times[name].append(erase(name))
    missing = [name for name, taken in times.items() if not taken]
    times = {name: taken for name, taken in times.items() if taken}
    medians = {name: median(taken) for name, taken in times.items()}
    cells = engine.read_cells(seq, [0])
    kept = engine._sequences.get(seq).store
    result = {
        "prefill_milliseconds": prefill,
        "prefill_1024_milliseconds_with_and_without_watching": watching,
        "erase_milliseconds_median": medians,
        "erase_milliseconds": times,
        "reprefill_over": {
            name: medians["reprefill"] / value for name, value in medians.items() if "reprefill" in medians
        },
        "not_measured": missing,
        "turn_milliseconds": turns,
        "kv_megabytes": cells.kv_bytes * context / 1e6,
        "kept_outside_megabytes": sum(rows.nbytes for rows in (*kept.keys, *kept.queries)) / 1e6,
        "resident_megabytes_after_prefill": resident,
        "resident_megabytes_at_most": _resident(),
        "seconds": time.perf_counter() - began,
        "model_megabytes": path.stat().st_size / 1e6,
    }
    return {**result, "kv_dtype": engine.kv_dtype, "threads": _threads()}


def _read(engine: LlamaCppEngine, seq: int, ids: list[int], until: float) -> None:
    def check(done: int) -> None:
        if time.perf_counter() > until:
            raise OutOfTimeError(f"{done:,} of {len(ids):,} tokens were read in the time for it")

    engine.prefill(seq, ids, progress=check)


def _resident() -> float:
    """Return the most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _erase(engine: LlamaCppEngine, seq: int, name: str, start: int) -> None:
    from kv_memory.erasers import get_eraser

    get_eraser(name).erase(engine, seq, [(start, start + SPAN)])
    engine.next_logits(seq)


def _answer(engine: LlamaCppEngine, seq: int, ids: list[int]) -> None:
    from kv_memory.engines.base import Sampling

    engine.prefill(seq, ids)
    for _ in engine.generate(seq, Sampling(max_tokens=WRITTEN)):
        pass


def _bare(engine: LlamaCppEngine, cells: int) -> Context:
    """Return a context of the engine's model as llama.cpp makes it, which nothing watches."""
    from kv_memory.engines.llama_cpp.context import Context

    return Context(engine._model, cells=cells, threads=_threads(), kv_type=1, flash_attention=True, rope={}, watch=None)


def _watching(engine: LlamaCppEngine, ids: list[int], rounds: int) -> list[float]:
    """Return the shortest prefill times, with the probe layer's queries and keys kept and in llama.cpp by itself.

    In contexts that hold nothing else: attention goes over all cells in use, whosever they are.
    """
    bare, home = _bare(engine, len(ids)), 3
    with_it, without = [], []
    for _ in range(rounds):
        seq = engine.create()
        with_it.append(timed(engine.prefill, seq, ids))
        engine.free(seq)
        without.append(timed(bare.decode, home, ids, 0, 1))
        bare.remove(home)
    return [min(with_it), min(without)]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("context", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    args = parser.parse_args()
    wait_passively()
    try:
        found = measure(
            args.model, args.adapter, args.context, rounds=args.rounds, seed=args.seed, seconds=60 * args.minutes
        )
    except OutOfTimeError as error:
        found = {"not_measured": [str(error)]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
