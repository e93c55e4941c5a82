"""Whether an eraser of a model of some size can be trained on one device: throughput, memory, resuming, finite losses.

    python -m benchmarks.train_shape --shape 8b --tokens 8192

The model has random weights of Qwen3-8B's shape in bfloat16, made on the device, with a tokenizer of bytes: nothing is
downloaded. Some steps run, with gradient checkpointing; then the training is resumed from its checkpoint, whose weights
must be the same, and goes on. The result goes to benchmarks/results/train_shape.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import latency
from benchmarks.record import environment, save
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.threads import wait_passively
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.training.corpus import TextExamples, read_texts
from kv_memory.training.estimate import estimate
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.run import RUN
from kv_memory.training.tasks import WorldExamples
from kv_memory.training.trainer import LOG, Trainer

SHAPES: dict[str, dict[str, Any]] = {
    "8b": latency.SHAPES["qwen3-8b"],
    "tiny": {
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
}
WARM = 2
"""Steps before those that are timed."""


def made(shape: str, device: torch.device) -> Qwen3ForCausalLM:
    """Make a model of this shape with random weights in bfloat16."""
    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=40_960, tie_word_embeddings=False, rope_theta=1e6)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return Qwen3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def train(model: Qwen3ForCausalLM, plan: Plan, text: Path, folder: Path, resumed_at: int) -> dict[str, Any]:
    """Train this plan's steps, with a stop and a resume after some of them; return what was measured."""
    engine = TransformersEngine(model, tiny_tokenizer(), name="shape")
    size = sum(p.numel() for p in model.parameters())
    needed = estimate(model, plan, device=model.device)
    print(f"The training takes {needed}.", flush=True)
    texts = TextExamples(engine.tokenizer, read_texts(text, 2_000_000))
    batches = Batches(plan, texts, WorldExamples(ChatFormat(engine.tokenizer), questions=plan.questions))
    times: list[float] = []

    def report(step: int, loss: float, table: object) -> None:
        times.append(time.monotonic())
        print(f"step {step}, loss {loss:.4f}", flush=True)

    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    first = Trainer(model, batches, folder / RUN, rotation=engine.rotation)
    first.run(report, every=resumed_at, until=resumed_at)
    trained = {name: p.detach().clone() for name, p in first.adapter.model.named_parameters() if p.requires_grad}
    base = first.adapter.model.unload()
    second = Trainer(base, batches, folder / RUN, rotation=engine.rotation, resume=True)
    again = dict(second.adapter.model.named_parameters())
    same = second.step == resumed_at and all(torch.equal(again[name], value) for name, value in trained.items())
    split = len(times)
    second.run(report, every=plan.steps, workers=1)
    paces = [b - a for part in (times[WARM - 1 : split - 1], times[split:-1]) for a, b in pairwise(part)]
    rows = [json.loads(line) for line in (folder / RUN / LOG).read_text().splitlines()]
    step = median(paces)
    return {
        "parameters": size,
        "losses": [row["loss"] for row in rows],
        "norms": [row["norm"] for row in rows],
        "finite": all(math.isfinite(row["loss"]) and math.isfinite(row["norm"]) for row in rows),
        "resumed_the_same": same,
        "seconds_a_step": step,
        "context_tokens_a_second": plan.tokens // max(plan.lengths) * max(plan.lengths) / step,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "estimated": {
            "gigabytes": needed.memory / 1e9,
            "least_gigabytes": needed.least / 1e9,
            "seconds_a_step": needed.seconds / plan.steps,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch")
    parser.add_argument("--length", type=int, default=2048, help="of a context")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--name", default="train_shape")
    options = parser.parse_args()
    wait_passively()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = Plan.of(
        text_steps=options.steps // 2,
        task_steps=options.steps - options.steps // 2,
        lengths=(options.length,),
        tokens=options.tokens,
        slots=options.slots,
        closes=True,
        learning_rate=1e-5,
        gradient_checkpointing=True,
    )
    started = time.monotonic()
    model = made(options.shape, device)
    with TemporaryDirectory() as folder:
        found = train(model, plan, options.text, Path(folder), resumed_at=options.steps // 2)
    result = {
        **environment(plan.seed),
        "shape": SHAPES[options.shape],
        "plan": plan.model_dump(),
        "seconds": round(time.monotonic() - started, 1),
        **found,
    }
    save(options.name, result)
    if not (found["finite"] and found["resumed_the_same"]):
        raise SystemExit("a loss is not finite, or the resumed training is another")


if __name__ == "__main__":
    main()
