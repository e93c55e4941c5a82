"""How far the logits of a GGUF model depend on where a conversation's cells are, and what it costs that they do not.

    python -m benchmarks.other_sessions MODEL.gguf... [--seed 0] [--contexts 1024 4096]

"shared": a context as llama.cpp has it, in which another conversation is first: the logits after the question, and the
greedy answer, against those of the same conversation alone. "engine": the same with kv_memory's engine, in which two
other conversations are read and continued in between. "costs": seconds for putting a conversation of N tokens
back after another one was used, and for putting its cells in order after a drop, beside those for one token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import environment, save
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.llama_cpp.context import GUARD, Context
from kv_memory.engines.llama_cpp.model import Model

WORDS = [
    "harbour",
    "ferry",
    "letter",
    "mayor",
    "orange",
    "bicycle",
    "morning",
    "quiet",
    "answer",
    "bridge",
    "window",
    "garden",
    "river",
    "market",
    "stone",
]
QUESTIONS, ANSWER = 6, 16
OTHER = (10, 300)
"""Least and most words of another conversation."""
SETTINGS: dict[str, dict[str, Any]] = {
    "float16": {"kv_type": 1, "flash_attention": True},
    "float32": {"kv_type": 0, "flash_attention": False},
}
MINE, THEIRS = GUARD + 1, GUARD + 2
"""Numbers of the conversations in a context of llama.cpp's own."""
ROUNDS = 5


def words(random: Random, count: int) -> str:
    """Return text of this many words."""
    return " ".join(random.choice(WORDS) for _ in range(count))


def conversations(engine: LlamaCppEngine, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return the ids of the conversations that are asked about, each with those of another one."""
    random = Random(seed)
    found = []
    for _ in range(QUESTIONS):
        said = [{"role": "user", "content": f"{words(random, 60)}. Tell a story about this."}]
        other = engine.tokenizer.encode(words(random, random.randint(*OTHER)), special=False)[0]
        found.append((engine.tokenizer.encode(engine.tokenizer.render(said, None, True), special=True)[0], other))
    return found


def apart(alone: tuple[Tensor, list[int]], shared: tuple[Tensor, list[int]]) -> tuple[float, bool]:
    """Return how far the logits after the question are apart, and whether the answers are the same."""
    return float((alone[0] - shared[0]).abs().max()), alone[1] == shared[1]


def in_context(context: Context, ids: list[int], other: list[int]) -> tuple[Tensor, list[int]]:
    """Return logits and answer of a conversation in a context that holds another one."""
    if other:
        context.decode(THEIRS, other, 0)
    logits = first = context.decode(MINE, ids, 0, 1)[0]
    said: list[int] = []
    while len(said) < ANSWER:
        said.append(int(logits.argmax()))
        logits = context.decode(MINE, said[-1:], len(ids) + len(said) - 1, 1)[0]
    context.remove(MINE)
    context.remove(THEIRS)
    return first, said


def in_engine(engine: LlamaCppEngine, ids: list[int], other: list[int]) -> tuple[Tensor, list[int]]:
    """Return logits and answer of a conversation, while others are read and continued in between."""
    others = [engine.create(), engine.create()] if other else []
    for seq in others:
        engine.prefill(seq, other)
    mine = engine.create()
    engine.prefill(mine, ids)
    first = engine.next_logits(mine)
    said: list[int] = []
    while len(said) < ANSWER:
        said.append(int(engine.next_logits(mine).argmax()))
        if others and len(said) % 4 == 0:
            engine.prefill(others[len(said) // 4 % 2], other[:3])
        engine.prefill(mine, said[-1:])
    for seq in (mine, *others):
        engine.free(seq)
    return first, said


def differences(path: Path, setting: str, seed: int) -> dict[str, Any]:
    """Measure one file with one kind of K and V."""
    engine = LlamaCppEngine.load(path, context_length=2048, dtype=setting)
    asked = conversations(engine, seed)
    context = Context(
        Model.load(path), cells=2048, threads=torch.get_num_threads(), rope={}, watch=None, **SETTINGS[setting]
    )
    shared = [apart(in_context(context, ids, []), in_context(context, ids, other)) for ids, other in asked]
    own = [apart(in_engine(engine, ids, []), in_engine(engine, ids, other)) for ids, other in asked]
    return {
        name: {
            "logits_median": statistics.median(far for far, _ in found),
            "logits_max": max(far for far, _ in found),
            "other_answers": sum(not same for _, same in found),
            "of": len(found),
        }
        for name, found in (("shared", shared), ("engine", own))
    }


def costs(path: Path, tokens: int, seed: int) -> dict[str, Any]:
    """Measure what switching between conversations costs."""
    engine = LlamaCppEngine.load(path, context_length=tokens + 256)
    numbers = torch.Generator().manual_seed(seed)
    first, second = engine.create(), engine.create()
    for seq in (first, second):
        engine.prefill(seq, torch.randint(1000, 8000, (tokens,), generator=numbers).tolist())
    switch, order, token = [], [], []
    for number in range(ROUNDS):
        seq = (first, second)[number % 2]
        switch.append(timed(engine.read_cells, seq, [0]))
        token.append(timed(engine.prefill, seq, [1000 + number]))
        engine.drop(seq, tokens // 2 + number, tokens // 2 + number + 1)
        order.append(timed(engine.prefill, seq, [1000 + number]) - token[-1])
    found = {"switch": switch, "order": order, "token": token}
    return {"tokens": tokens, **{name: statistics.median(seconds) for name, seconds in found.items()}}


def timed(work: Any, *given: Any) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work(*given)
    return time.perf_counter() - started


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096])
    options = parser.parse_args()
    import llama_cpp

    models = {}
    for path in options.models:
        row: dict[str, Any] = {name: differences(path, name, options.seed) for name in SETTINGS}
        row["costs"] = [costs(path, tokens, options.seed) for tokens in options.contexts]
        models[path.stem] = row
        print(path.stem, row, flush=True)
    said = environment(options.seed)
    said["versions"]["llama-cpp-python"] = llama_cpp.__version__
    save("other_sessions", {**said, "answer": ANSWER, "models": models})


if __name__ == "__main__":
    main()
