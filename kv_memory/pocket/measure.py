"""Measures a pocket model on unseen worlds, as its card tells.

    python -m kv_memory.pocket.measure --model DIR [--each 100] [--data FOLDER]

Rewrites the figures in DIR/metrics.json and DIR/README.md; the weights stay as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from kv_memory.pocket.evaluate import answer_cases, scores, test_cases
from kv_memory.pocket.lookups import TRAJECTORIES, look_ups
from kv_memory.pocket.release import write_card
from kv_memory.pocket.tokenizer import PieceEncoder

SUITES: dict[str, tuple[int, bool | None]] = {
    "512 tokens": (512, None),
    "1024 tokens": (1024, None),
    "512 tokens, known sentences": (512, False),
    "512 tokens, held-out sentences": (512, True),
    "2048 tokens": (2048, None),
}
"""Length of the conversations, and which wordings (`make_world`)."""


def measure(model: Any, encoder: PieceEncoder, each: int, data: Path | None = None) -> dict[str, dict[str, float]]:
    """Exact match by suite and class, with the span and never having seen it; `each` probes of a class.

    With the folder of real trajectories also on look-ups in them. Prints each suite as it is done.
    """
    metrics = {}
    tokens = 65536 if model.device.type == "cuda" else 4096
    for name, (length, held_out) in SUITES.items():
        cases = test_cases(length, each, held_out)
        metrics[name] = scores(cases, answer_cases(model, encoder, cases, tokens))
        print(name, metrics[name], flush=True)
    if data is not None and (data / TRAJECTORIES).exists():
        cases = look_ups(data / TRAJECTORIES)
        metrics["tau-bench"] = scores(cases, answer_cases(model, encoder, cases, tokens))
        print("tau-bench", metrics["tau-bench"], flush=True)
    return metrics


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kv_memory.pocket.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--each", type=int, default=100, help="probes of each class")
    parser.add_argument("--data", type=Path, help="folder with tau_bench_airline.jsonl.gz")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval()
    encoder = PieceEncoder(AutoTokenizer.from_pretrained(options.model))
    facts = json.loads((options.model / "metrics.json").read_text())
    facts.pop("metrics", None)
    write_card(options.model, facts | {"each": options.each}, measure(model, encoder, options.each, options.data))


if __name__ == "__main__":
    main()
