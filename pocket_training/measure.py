"""Measure a pocket model on unseen worlds and on real text, and write the figures into its card.

    python -m pocket_training.measure --model DIR [--each 1000] [--data FOLDER]

Rewrites the figures in DIR/metrics.json and DIR/README.md; the weights stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pocket_training.corpus import RealText
from pocket_training.evaluate import Encoded, Outcome, answer_cases, encode, scores, test_cases
from pocket_training.lookups import TRAJECTORIES, look_ups
from pocket_training.reading_cases import document_cases, story_cases
from pocket_training.release import write_card
from pocket_training.tokenizer import PieceEncoder

LENGTHS = (1024, 2048, 4096, 8192)
FIRST_SEED, SEEDS = 5_000_000, 100_000
"""Seed of a suite's first world, and distance between the first seeds of its parts."""
MISSES = 12
"""Wrong answers of each suite that are kept as examples."""


_encoder: PieceEncoder
"""Encoder of a worker process."""


def suites(encoder: PieceEncoder, each: int, data: Path | None, workers: int) -> Iterator[tuple[str, list[Encoded]]]:
    """Yield the cases of each suite: unseen worlds by length, in known and in held-out sentences; then real text."""
    share = -(-each // workers)
    # forked, so that no worker imports anything; a worker never touches the GPU
    with ProcessPoolExecutor(workers, get_context("fork"), _keep, (encoder,)) as pool:
        seeds = [FIRST_SEED + part * SEEDS for part in range(workers)]
        drawn = {  # all at once: the next suite is made while the model answers one
            f"{length} tokens, {'held-out' if held_out else 'known'} sentences": pool.map(
                partial(_part, length, share, held_out), seeds
            )
            for length in LENGTHS
            for held_out in (False, True)
        }
        for name, parts in drawn.items():
            yield name, [*chain(*parts)]
    if data is not None:
        kept = RealText.load(data, kept=True)
        real = {
            "tau-bench look-ups": look_ups(data / TRAJECTORIES, each=4),
            "bAbI stories not trained on": story_cases(kept, each),
            "SQuAD and NQ paragraphs not trained on": document_cases(kept, each),
        }
        yield from ((name, [encode(encoder, case) for case in cases]) for name, cases in real.items())


def _keep(encoder: PieceEncoder) -> None:
    global _encoder  # noqa: PLW0603  # what a worker process is given once
    _encoder = encoder


def _part(length: int, each: int, held_out: bool, seed: int) -> list[Encoded]:
    """Return `each` probes of a class, without the span; a third of them also with it."""
    seen: Counter[str] = Counter()
    found = []
    for case in test_cases(length, each, held_out, seed):
        seen[case.group] += 1
        if case.group.endswith("/without") or seen[case.group] <= -(-each // 3):
            found.append(encode(_encoder, case))
    return found


def measure(
    model: Any, encoder: PieceEncoder, each: int, data: Path | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Measure exact match by suite and class, with the span and without it; about `each` probes of a class.

    With the folder of real text, that too. Prints each suite as it is done. Returns the figures ("metrics") and
    examples of wrong answers ("misses").
    """
    metrics, misses = {}, {}
    replicas = _replicas(model)
    for name, cases in suites(encoder, each, data, workers or max(1, (os.cpu_count() or 2) - 2)):
        outcomes = _answer(replicas, cases)
        metrics[name] = scores(cases, outcomes)
        misses[name] = list(_misses(encoder, cases, outcomes))
        print(name, metrics[name], flush=True)
    return {"metrics": metrics, "misses": misses}


def _replicas(model: Any) -> list[Any]:
    """Return the model in bf16, as it ships, on each GPU; on a CPU the model itself."""
    if not torch.cuda.is_available():
        return [model]
    replicas = [type(model)(deepcopy(model.config)) for _ in range(torch.cuda.device_count())]  # none of it compiled
    for gpu, replica in enumerate(replicas):
        replica.load_state_dict(model.state_dict())
        replica.to(f"cuda:{gpu}", torch.bfloat16).eval()
    return replicas


def _answer(replicas: list[Any], cases: list[Encoded]) -> list[Outcome]:
    """Return the outcome of each case, computed on all replicas."""
    outcomes = [Outcome(False, ())] * len(cases)
    tokens = 131072 if replicas[0].device.type == "cuda" else 8192
    with ThreadPoolExecutor(len(replicas)) as pool:
        shares = [cases[part :: len(replicas)] for part in range(len(replicas))]
        for part, answers in enumerate(pool.map(partial(answer_cases, tokens=tokens), replicas, shares)):
            outcomes[part :: len(replicas)] = answers
    return outcomes


def _misses(encoder: PieceEncoder, cases: list[Encoded], outcomes: list[Outcome]) -> Iterator[dict[str, str]]:
    wrong = [pair for pair in zip(cases, outcomes, strict=True) if not pair[1].right]
    for case, outcome in wrong[:: -(-len(wrong) // MISSES) or 1]:
        yield {
            "class": case.group,
            "question": case.question,
            "right": case.answer,
            "said": encoder.decode(outcome.best),
        }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pocket_training.measure", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--each", type=int, default=1000, help="probes of each class")
    parser.add_argument("--data", type=Path, help="folder with tau_bench_airline.jsonl.gz and the other real text")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval()
    encoder = PieceEncoder(AutoTokenizer.from_pretrained(options.model))
    facts = json.loads((options.model / "metrics.json").read_text())
    write_card(options.model, facts | {"each": options.each} | measure(model, encoder, options.each, options.data))


if __name__ == "__main__":
    main()
