"""Models with recurrent layers: time of an exact retraction by distance from the checkpoint, and memory of a session.

    python -m benchmarks.checkpoints

Time: random weights of Qwen3.5's layers, 4 of them (3 recurrent, 1 of attention), 512 wide, float32. A span of 100
tokens at three quarters of the conversation is erased from a copy of it that has one checkpoint, at some distance
before the span, or none; each distance in turn, several rounds. Ratios are to a prefill of all that is kept, in the
same round.

Memory: sizes of the tensors of one block of four layers of Qwen3.5-9B's width, bfloat16, after a pass of 8 tokens,
times the model's eight blocks, and the logits that a checkpoint holds too. The checkpoints that a budget keeps are
those that the engine's bookkeeping leaves after a session of 32,768 tokens with a message every 256.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from benchmarks.record import environment, save
from kv_memory.engines.threads import wait_passively

SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "max_position_embeddings": 65_536,
}
BLOCK: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 4096,
    "intermediate_size": 64,  # of the MLP, which keeps nothing
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 65_536,
}
BLOCKS, VOCABULARY = 8, 248_320
SPAN, CONTEXT = 100, 4096
DISTANCES = (0, 64, 256, 1024)
SESSION, MESSAGE = 32_768, 256
BUDGETS = (0, 128, 256, 512, 1024, 2048, 8192)
BEFORE_END = (256, 1024, 4096, 16_384)
"""Tokens before the session's end at which a retracted message begins."""


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wait_passively()
    result: dict[str, Any] = {**environment(args.seed), "rounds": args.rounds, "span": SPAN, "context": CONTEXT}
    result["time"] = times(args.rounds, args.seed)
    result["memory"] = memory(args.seed)
    save("checkpoints", result)


def engine(shape: dict[str, Any], dtype: str, seed: int) -> Any:
    """Return an engine over random weights of this shape."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

    from kv_memory.engines.transformers import RecurrentEngine
    from kv_memory.testing.chat import tiny_tokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(Qwen3_5TextConfig(**shape), dtype=getattr(torch, dtype))
    return RecurrentEngine(model, tiny_tokenizer(), name="shape")


def times(rounds: int, seed: int) -> dict[str, Any]:
    """Measure the erasures: median milliseconds, tokens run, and the ratio to a prefill of all that is kept."""
    import torch

    from kv_memory.erasers.recompute import Recompute
    from kv_memory.evaluation.trial import now

    tried = engine(SMALL, "float32", seed)
    ids = torch.randint(300, 2000, (CONTEXT,)).tolist()
    start = 3 * CONTEXT // 4
    sequences = {}
    for distance in (*DISTANCES, start):
        tried.checkpoints.budget = 0  # keeps none of its own
        seq = sequences[distance] = tried.create()
        tried.prefill(seq, ids[: start - distance])
        tried.checkpoints.budget = 1e9
        if distance < start:
            tried.mark(seq, [start - distance])
            tried.prefill(seq, ids[start - distance : start - distance + 1])
        tried.checkpoints.budget = 0
        tried.prefill(seq, ids[tried.next_position(seq) :])
    taken: dict[str, list[float]] = {name: [] for name in (*map(str, sequences), "prefill")}
    ran = {}
    for turn in range(rounds + 1):  # the first round warms up
        for distance, seq in sequences.items():
            fork = tried.fork(seq)
            began = now()
            done = Recompute().erase(tried, fork, [(start, start + SPAN)])
            tried.next_logits(fork)
            taken[str(distance)] += [now() - began] if turn else []
            ran[str(distance)] = done.recomputed
            tried.free(fork)
        fresh = tried.create()
        began = now()
        tried.prefill(fresh, ids[:start] + ids[start + SPAN :])
        taken["prefill"] += [now() - began] if turn else []
        tried.free(fresh)
    return {
        name: {
            "tokens_run": ran.get(name, CONTEXT - SPAN),
            "milliseconds_median": 1e3 * median(values),
            "milliseconds_range": [1e3 * min(values), 1e3 * max(values)],
            "share_of_prefill": median(a / b for a, b in zip(values, taken["prefill"], strict=True)),
        }
        for name, values in taken.items()
    }


def memory(seed: int) -> dict[str, Any]:
    """Return the memory of a session, and the tokens that retractions run again, by budget."""
    from kv_memory.engines.checkpoints import Checkpoints

    block = engine(BLOCK, "bfloat16", seed)
    seq = block.create()
    block.prefill(seq, list(range(1, 9)))
    layers = block._sequences[seq].cache.layers
    rows = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if hasattr(layer, "keys")) // 8
    logits = block.next_logits(seq).nbytes
    state = BLOCKS * (block._forward.state_size - logits) + VOCABULARY * 2
    found: dict[str, Any] = {
        "kv_megabytes": BLOCKS * rows * SESSION / 1e6,
        "checkpoint_megabytes": state / 1e6,
        "budgets": {},
    }
    for budget in BUDGETS:
        end = {0: 0}
        kept: Checkpoints[None] = Checkpoints(budget * 1e6, end.__getitem__)
        for position in range(MESSAGE, SESSION + 1, MESSAGE):
            end[0] = position
            kept.mark(0, [position])
            if kept.due(0, position):
                kept.keep(0, position, None, state)
        ran = {}
        for before in BEFORE_END:
            checkpoint = kept.before(0, SESSION - before)
            ran[str(before)] = SESSION - (checkpoint.position if checkpoint else 0)
        every = [_ran(kept, start) / (SESSION - start) for start in range(0, SESSION, MESSAGE)]
        found["budgets"][str(budget)] = {
            "checkpoints": len(kept.positions(0)),
            "megabytes": kept.bytes / 1e6,
            "tokens_run_by_distance_from_end": ran,
            "times_what_follows_median": median(every),
            "times_what_follows_highest": max(every),
        }
    return found


def _ran(kept: Any, start: int) -> int:
    checkpoint = kept.before(0, start)
    return SESSION - (checkpoint.position if checkpoint else 0)


if __name__ == "__main__":
    main()
