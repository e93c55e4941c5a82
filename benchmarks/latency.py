"""Erase time and cache memory by context length, on random weights of a real model's shape.

    python -m benchmarks.latency --shape qwen3-8b --contexts 1024 4096 8192 16384 32768

A span of 100 tokens at 10 % of the context is erased from a copy of one prefilled sequence, by each eraser in turn,
several rounds; figures are medians, and ratios are to `recompute` in the same run. The score that `influence` chooses
by is timed apart too, with each normaliser. Weights do not matter to time.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from kv_memory.engines.base import SequenceId
from kv_memory.engines.parts import AttentionScores
from kv_memory.engines.threads import wait_passively

SHAPES: dict[str, dict[str, int]] = {
    "qwen3-8b": {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "qwen3-0.6b": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "pocket": {},
}
SPAN = 100


def score_times(engine: AttentionScores, seq: SequenceId, start: int, rounds: int) -> dict[str, float]:
    """Measure the median milliseconds to find the tokens that attended most, by normaliser; the first round warms
    up."""
    from kv_memory.evaluation.calibrate.layers import NORMALISERS
    from kv_memory.evaluation.trial import now

    times: dict[str, list[float]] = {name: [] for name in NORMALISERS}
    for turn in range(rounds + 1):
        for name in NORMALISERS:
            started = now()
            engine.influence(seq, [(start, start + SPAN)], normaliser=name)
            if turn:
                times[name].append(now() - started)
    return {name: 1e3 * median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="pocket")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="latency")
    args = parser.parse_args()
    wait_passively()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

    from benchmarks.record import environment, save
    from kv_memory.engines.transformers import TransformersEngine
    from kv_memory.erasers import ERASERS, get_eraser
    from kv_memory.evaluation.trial import now
    from kv_memory.pocket import model_path
    from kv_memory.trained.files import POCKET, open_eraser

    cuda = torch.cuda.is_available()
    torch.manual_seed(args.seed)
    if args.shape == "pocket":
        engine = TransformersEngine.load(model_path())
        open_eraser(POCKET).load(engine)
    else:
        config = Qwen3Config(**SHAPES[args.shape], max_position_embeddings=40_960, tie_word_embeddings=False)
        with torch.device("cuda" if cuda else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if cuda else torch.float32)
        engine = TransformersEngine(model, AutoTokenizer.from_pretrained(model_path()), name=args.shape)

    result: dict[str, Any] = {**environment(args.seed), "shape": args.shape, "span": SPAN, "rounds": args.rounds}
    result |= {"dtype": engine.kv_dtype, "contexts": {}}
    for context in args.contexts:
        seq = engine.create()
        started = now()
        engine.prefill(seq, torch.randint(1000, 8000, (context,)).tolist())
        prefill = now() - started
        start = context // 10
        times: dict[str, list[float]] = {name: [] for name in ERASERS if not get_eraser(name).lacking(engine)}
        for turn in range(args.rounds + 1):  # the first round warms up
            for name, taken in times.items():
                fork = engine.fork(seq)
                started = now()
                get_eraser(name).erase(engine, fork, [(start, start + SPAN)])
                if turn:
                    taken.append(now() - started)
                engine.free(fork)
        medians = {name: median(values) for name, values in times.items()}
        cells = engine.read_cells(seq, [0])
        kv = cells.kv_bytes
        result["contexts"][str(context)] = {
            "prefill_milliseconds": 1e3 * prefill,
            "erase_milliseconds_median": {name: 1e3 * value for name, value in medians.items()},
            "erase_milliseconds_range": {name: [1e3 * min(v), 1e3 * max(v)] for name, v in times.items()},
            "score_milliseconds_median": score_times(engine, seq, start, args.rounds),
            "recompute_over_eraser": {name: medians["recompute"] / value for name, value in medians.items()},
            "kv_megabytes": kv * context / 1e6,
            "query_share_of_kv": sum(rows.nbytes for rows in cells.queries) / kv,
        }
        engine.free(seq)
        print(context, {name: f"{1e3 * value:.2f} ms" for name, value in medians.items()}, flush=True)
        save(args.name, result)


if __name__ == "__main__":
    main()
