"""The llama.cpp engine against llama.cpp's own ways of forgetting: time and memory by context length.

    python -m benchmarks.llama_cpp

On the pocket model and on random weights of Qwen2.5-0.5B's shape in Q8_0, a span of 100 tokens at 10 % of the context
is erased from a copy of one prefilled sequence. A time ends when the logits of the next token are there, because
llama.cpp moves keys no sooner. Its own ways, on a context of its own with the same cells and without this engine around
it: `reprefill`, seq_rm from the span on and a prefill of the rest, as its prefix cache does; `reuse`, seq_rm of the
span and seq_add of what follows, as its cache reuse by shifting does. A turn is 64 tokens read and 32 written. Each
context length runs in a process of its own, whose memory is reported. Figures are medians; where a context takes
minutes to read, it is read again once only, and a figure is then one measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kv_memory.engines.llama.context import Context
    from kv_memory.engines.llama_cpp import LlamaCppEngine

SPAN, READ, WRITTEN, RANK = 100, 64, 32, 16
LONG = 20.0
"""Seconds of prefill from which on what reads the context again is done once."""
AGAIN = ("recompute", "selective", "reprefill")


def write_adapter(model: Path, out: Path, seed: int) -> Path:
    """A random LoRA of rank 16 on all projections of a GGUF model; what it makes of tokens means nothing."""
    import gguf
    import numpy as np

    reader, numbers = gguf.GGUFReader(model), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * RANK)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            columns, rows = (int(size) for size in tensor.shape)
            for side, shape in (("a", (RANK, columns)), ("b", (rows, RANK))):
                writer.add_tensor(f"{tensor.name}.lora_{side}", numbers.normal(0, 0.01, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def timed(work: Callable[..., object], *arguments: Any) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work(*arguments)
    return 1e3 * (time.perf_counter() - started)


class Own:
    """llama.cpp by itself: one sequence in a context of its own, with the cells of the engine's."""

    def __init__(self, engine: LlamaCppEngine, seq: int, cells: int) -> None:
        from kv_memory.engines.llama.library import library

        self._home = 3
        self._library = library()
        there = engine._context
        self.context = _bare(engine, cells)
        self._state = there.read(engine._sequences.home(engine._sequences.get(seq)))
        self.restore()

    def restore(self) -> None:
        """The cells as the engine has them."""
        self.context.remove(self._home)
        self.context.write(self._home, self._state)

    def decode(self, ids: list[int], start: int) -> int:
        """Run tokens; the likeliest next one."""
        return int(self.context.decode(self._home, ids, start, 1)[0].argmax())

    def reprefill(self, ids: list[int], start: int) -> None:
        """Forget everything from the span on and read the rest again."""
        self.context.remove(self._home, start)
        self.decode(ids[start + SPAN :], start)

    def reuse(self, ids: list[int], start: int) -> None:
        """Forget the span, move what follows, and run the last token again, with which the keys are turned."""
        self.context.remove(self._home, start, start + SPAN)
        self._library.llama_memory_seq_add(self.context.memory, self._home, start + SPAN, -1, -SPAN)
        last = len(ids) - SPAN - 1
        self.context.remove(self._home, last)
        self.decode(ids[-1:], last)

    def turn(self, ids: list[int], at: int) -> None:
        """Read and write, greedily."""
        token = self.decode(ids, at)
        for position in range(at + len(ids), at + len(ids) + WRITTEN - 1):
            token = self.decode([token], position)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def measure(path: Path, adapter: Path, context: int, rounds: int, seed: int) -> dict[str, Any]:
    """All figures of one model and context length."""
    import torch

    from kv_memory.engines.base import Steering
    from kv_memory.engines.llama_cpp import LlamaCppEngine
    from kv_memory.erasers import ERASERS

    positions = context + 256
    # a copy of what follows the span must fit beside it, or erasers would keep it outside for as long
    engine = LlamaCppEngine.load(path, positions=positions, cells=2 * positions)
    engine.load_adapter(str(adapter), "random")
    engine.steer_with(Steering("random"))
    ids = torch.randint(1000, 8000, (context,), generator=torch.Generator().manual_seed(seed)).tolist()
    start = context // 10
    watching = _watching(engine, ids[:1024], 2 * rounds)
    seq = engine.create()
    prefill = timed(engine.prefill, seq, ids)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    own = Own(engine, seq, positions)
    rest = 1 if prefill > 1e3 * LONG else rounds

    times: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name in ERASERS:
            if name in AGAIN and turn >= rest:
                continue
            fork = engine.fork(seq)
            times.setdefault(name, []).append(timed(_erase, engine, fork, name, start))
            engine.free(fork)
        for name in ("reprefill", "reuse"):
            if name in AGAIN and turn >= rest:
                continue
            times.setdefault(name, []).append(timed(getattr(own, name), ids, start))
            own.restore()
    turns: dict[str, list[float]] = {"engine": [], "llama.cpp": []}
    for _ in range(rounds):
        fork = engine.fork(seq)
        turns["engine"].append(timed(_answer, engine, fork, ids[:READ]))
        engine.free(fork)
        turns["llama.cpp"].append(timed(own.turn, ids[:READ], context))
        own.restore()
    medians = {name: median(taken) for name, taken in times.items()}
    cells = engine.read_cells(seq, [0])
    kept = engine._sequences.get(seq).store
    result = {
        "prefill_milliseconds": prefill,
        "prefill_1024_milliseconds_with_and_without_watching": watching,
        "erase_milliseconds_median": medians,
        "erase_milliseconds": times,
        "reprefill_over": {name: medians["reprefill"] / value for name, value in medians.items()},
        "turn_milliseconds": turns,
        "kv_megabytes": (cells.keys.nbytes + cells.values.nbytes) * context / 1e6,
        "kept_outside_megabytes": sum(rows.nbytes for rows in (*kept.keys, *kept.queries)) / 1e6,
        "resident_megabytes_after_prefill": resident,
        "model_megabytes": path.stat().st_size / 1e6,
    }
    return {**result, "kv_dtype": engine.capabilities.kv_dtype, "threads": _threads()}


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
    """A context of the engine's model as llama.cpp makes it, which nothing watches."""
    from kv_memory.engines.llama.context import Context

    return Context(engine._model, cells=cells, threads=_threads(), kv_type=1, flash_attention=True, watch=None)


def _watching(engine: LlamaCppEngine, ids: list[int], rounds: int) -> list[float]:
    """What prefill takes with the probe layer's queries and keys kept, and in llama.cpp by itself; the quickest.

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["pocket", "qwen2-0.5b"], default=["pocket", "qwen2-0.5b"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 16_384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="llama_cpp")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if args.one:
        path, adapter, context = args.one
        print(json.dumps(measure(Path(path), Path(adapter), int(context), args.rounds, args.seed)))
        return

    from importlib.metadata import version

    from benchmarks.random_gguf import random_gguf
    from benchmarks.record import environment, save
    from kv_memory.gguf import pocket_gguf

    result: dict[str, Any] = {**environment(args.seed), "span": SPAN, "rounds": args.rounds, "models": {}}
    result["versions"]["llama-cpp-python"] = version("llama-cpp-python")
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            path = (
                pocket_gguf("f16") if model == "pocket" else random_gguf(Path(folder) / "random.gguf", seed=args.seed)
            )
            adapter = write_adapter(path, Path(folder) / f"{model}-adapter.gguf", args.seed)
            result["models"][model] = {}
            for context in args.contexts:
                command = [sys.executable, "-m", "benchmarks.llama_cpp", "--rounds", str(args.rounds)]
                command += ["--seed", str(args.seed), "--one", str(path), str(adapter), str(context)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found = json.loads(done.stdout.splitlines()[-1])
                result["models"][model][str(context)] = found
                shown = {name: f"{value:.0f} ms" for name, value in found["erase_milliseconds_median"].items()}
                print(model, context, shown, flush=True)
                save(args.name, result)


if __name__ == "__main__":
    main()
