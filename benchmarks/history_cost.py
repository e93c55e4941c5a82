"""What a call costs in a long conversation, beside the model's own work, and a retraction from a long tool result.

    python -m benchmarks.history_cost [--seed 0]

A tiny random model on the CPU, so that nearly all of the time is bookkeeping. "turn": one more message is read after
the history and one token is written. "retract": one message is retracted. "after": the first call after it, whose
history still holds the text. "ranges": 40 ranges of one tool result are retracted one after the other; the first ones
and the last ones of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.record import environment, save
from kv_memory import CharRange, Memory
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import tiny_model, tiny_tokenizer

MESSAGES = (100, 200, 400, 800, 1600)
TOKENS, RANGES = 50_000, 40
REPEATS = 5


def engine(positions: int) -> TransformersEngine:
    """Return an engine with a tiny random model of this context length."""
    return TransformersEngine(tiny_model(0, positions), tiny_tokenizer(), name="tiny")


def history(messages: int, random: Random) -> list[dict[str, Any]]:
    """Return a conversation of short messages, each with its id."""
    return [
        {"role": ("user", "assistant")[i % 2], "id": f"m{i}", "content": f"{random.getrandbits(16):04x}"}
        for i in range(messages)
    ]


def timed(work: Callable[..., object], *given: Any, **more: Any) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work(*given, **more)
    return time.perf_counter() - started


def turns(messages: int, seed: int) -> dict[str, Any]:
    """Measure calls in a conversation of this many messages."""
    said = history(messages, Random(seed))
    memory = Memory(engine(40 * messages), heal="never", eraser="drop")
    session = memory.session("s")
    session.prefill(said)
    turn, retracting, after = [], [], []
    for number in range(REPEATS):
        more = [*said, {"role": "user", "content": f"{number} and now?"}]
        turn.append(timed(session.chat, more, max_tokens=1))
        name = f"m{messages // 2 + number}"
        retracting.append(timed(session.retract, name))
        after.append(timed(session.chat, more, max_tokens=1))
    found = {"turn": turn, "retract": retracting, "after": after}
    return {"messages": len(said), **{name: statistics.median(seconds) for name, seconds in found.items()}}


def ranges(tokens: int) -> dict[str, Any]:
    """Measure retractions of ranges of one tool result of this many tokens, a token a character."""
    text = "".join(f"{number:07} item. " for number in range(tokens // 14))
    session = Memory(engine(tokens + 1000), heal="never", eraser="drop").session("s")
    session.prefill(
        [
            {"role": "user", "id": "u", "content": "Read it."},
            {"role": "tool", "tool_call_id": "c1", "content": text},
            {"role": "user", "id": "z", "content": "And?"},
        ]
    )
    step = len(text) // RANGES
    found = [
        timed(session.retract, CharRange(message="c1", start=at, end=at + step // 4))
        for at in range(0, step * RANGES, step)
    ]
    return {
        "tokens": len(text),
        "ranges": RANGES,
        "first": statistics.median(found[:5]),
        "last": statistics.median(found[-5:]),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for messages in MESSAGES:
        rows.append(turns(messages, options.seed))
        print(rows[-1], flush=True)
    found = ranges(TOKENS)
    print(found, flush=True)
    save("history_cost", {**environment(options.seed), "ranges": found, "rows": rows})


if __name__ == "__main__":
    main()
