"""Trains the pocket model from scratch.

    python -m kv_memory.pocket.train --out runs/pocket --data ../shared/data [--minutes 9] [--resume]

Writes the finished model to OUT/model and a checkpoint to OUT/checkpoint.pt. With --minutes it stops in time, and the
same command with --resume goes on from there; the result is that of one uninterrupted run.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from kv_memory.pocket.batches import Batches, Stage
from kv_memory.pocket.corpus import chunks, load_text
from kv_memory.pocket.evaluate import Case, answer_cases, scores, test_cases
from kv_memory.pocket.measure import measure
from kv_memory.pocket.pieces import pieces
from kv_memory.pocket.release import release
from kv_memory.pocket.samples import make_sample
from kv_memory.pocket.tokenizer import VOCABULARY, PieceEncoder, train_tokenizer

# Short rows first: looking things up is learned suddenly after a plateau, and short rows shorten the plateau.
FIRST_CYCLE = (
    Stage(2500, {256: 1.0}, 32768),
    Stage(2000, {256: 0.3, 512: 0.7}, 65536),
    Stage(4000, {256: 0.1, 512: 0.35, 1024: 0.55}, 65536),
    Stage(4500, {512: 0.2, 1024: 0.35, 2048: 0.45}, 65536),
    Stage(2500, {512: 0.1, 1024: 0.2, 2048: 0.35, 4096: 0.35}, 65536),
)
SECOND_CYCLE = (
    Stage(6500, {256: 0.1, 512: 0.25, 1024: 0.35, 2048: 0.3}, 65536),
    Stage(5000, {512: 0.15, 1024: 0.25, 2048: 0.35, 4096: 0.25}, 65536),
)
CYCLES = (FIRST_CYCLE, SECOND_CYCLE)
PEAK_RATES, WARM_UP, DECAY = (1.5e-3, 1.0e-3), 200, (0.4, 0.7)
"""Learning rate of each cycle; steps up to it; the share of a cycle, at its end, in which the rate falls to 0."""
FIRST_WEIGHTS, SECOND_SHARE = "first_cycle.pt", 0.7
"""What ships is a mean of the weights at the ends of the two cycles, this much of the second: better than either
(WiSE-FT, arXiv 2109.01903; benchmarks/ablations.md)."""
EVALUATE_EVERY = 1000
_REAL_TEXT = "2 % of the rows and some filler prose are 19th-century children's books (public domain)."
console = Console(width=160)


def architecture() -> Qwen3Config:
    """The model's shape: 13.8 M parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        use_cache=True,
    )


def weighted_loss(hidden: Tensor, head: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of each next token. hidden [rows, length, width], head [vocabulary, width]."""
    logits = functional.linear(hidden[:, :-1], head).float()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def rate_at(step: int, steps: tuple[int, ...]) -> float:
    """The learning rate, for cycles of so many steps: in each up, level, and down to 0 (SGDR, arXiv 1608.03983)."""
    cycle = 0
    while step >= steps[cycle] and cycle + 1 < len(steps):
        step, cycle = step - steps[cycle], cycle + 1
    left = (steps[cycle] - step) / (DECAY[cycle] * steps[cycle])
    return PEAK_RATES[cycle] * min(1.0, (step + 1) / WARM_UP, left)


class Training:
    """One run in its folder."""

    def __init__(
        self,
        out: Path,
        text: str,
        seed: int,
        config: Qwen3Config,
        cycles: tuple[tuple[Stage, ...], ...],
        *,
        resume: bool = False,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed = out, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        self.tokenizer = self._tokenizer(text)
        self.encoder = PieceEncoder(self.tokenizer)
        self.cycles = tuple(sum(stage.steps for stage in stages) for stages in cycles)
        self.batches = Batches(tuple(stage for stages in cycles for stage in stages), self.tokenizer, text, seed)
        self.model: Any = Qwen3ForCausalLM(config).to(self.device)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=PEAK_RATES[0], betas=(0.9, 0.95), fused=self.device.type == "cuda"
        )
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.loss = float("nan")
        if resume:
            self._load()
        self.loss_function: Any = weighted_loss
        if self.device.type == "cuda":
            for layer in self.model.model.layers:
                layer.compile(dynamic=True)
            self.loss_function = torch.compile(weighted_loss, dynamic=True)

    def _tokenizer(self, text: str) -> Any:
        folder = self.out / "tokenizer"
        if not folder.exists():
            rng = Random(self.seed)
            samples = (make_sample(rng, 600) for _ in range(3000))
            worlds = (p.text for s in samples for p in pieces(s.messages, s.tools) if p.content)
            train_tokenizer([*worlds, *chunks(text[:4_000_000])]).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)

    def _load(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the one before."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        torch.save(state, self.out / "checkpoint.part")
        (self.out / "checkpoint.part").replace(self.out / "checkpoint.pt")

    def run(self, until: int, workers: int, minutes: float | None = None) -> bool:
        """Train up to step `until`; False if the time was up before."""
        started, steps = time.monotonic(), len(self.batches)
        last, shown = started, self.tokens
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, until),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="fork" if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for ids, weights in loader:
            if self.step == self.cycles[0]:
                torch.save(self.model.state_dict(), self.out / FIRST_WEIGHTS)
                self.optimizer.state.clear()  # the second cycle starts from the weights alone
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(self.step, self.cycles)
            loss = self.train_step(ids.to(self.device, non_blocking=True), weights.to(self.device, non_blocking=True))
            self.step += 1
            self.tokens += ids.numel()
            if self.step % 100 == 0:
                self.loss = float(loss)
                now = time.monotonic()
                speed = (self.tokens - shown) / (now - last)
                console.print(
                    f"step {self.step}/{steps} loss {self.loss:.3f} {speed:,.0f} tokens/s {now - started:.0f} s"
                )
                last, shown = now, self.tokens
            if self.step % EVALUATE_EVERY == 0:
                self.save()
                self.report("512 tokens", test_cases(512, 40))
            if minutes is not None and time.monotonic() - started > 60 * minutes and self.step < until:
                self.seconds += time.monotonic() - started
                self.loss = float(loss)
                return False
        self.seconds += time.monotonic() - started
        self.loss = float(loss)
        return True

    def train_step(self, ids: Tensor, weights: Tensor) -> Tensor:
        """One step of the optimizer; returns the loss."""
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            loss: Tensor = self.loss_function(hidden, self.model.lm_head.weight, ids, weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def report(self, name: str, cases: list[Case]) -> dict[str, float]:
        """Exact match on these cases, printed with a few samples, and returned."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):
            outcomes = answer_cases(self.model, self.encoder, cases)
        result = scores(cases, outcomes)
        console.print(f"  {name}: " + " ".join(f"{group} {share:.2f}" for group, share in result.items()))
        for case, outcome in list(zip(cases, outcomes, strict=True))[:: len(cases) // 4 or 1]:
            said = self.tokenizer.decode(outcome.best)
            console.print(f"    {case.group}: {case.question} -> {said!r}, right: {case.answer!r}", markup=False)
        return result

    def finish(self, data: Path | None, command: str) -> None:
        """Average the cycles, measure the model and write it as it ships."""
        first = torch.load(self.out / FIRST_WEIGHTS, map_location=self.device, weights_only=True)
        self.model.load_state_dict(mean_weights(first, self.model.state_dict(), SECOND_SHARE))
        with torch.compiler.set_stance("force_eager"):
            metrics = measure(self.model.eval(), self.encoder, each=200, data=data)
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        facts = {
            "parameters": sum(p.numel() for p in self.model.parameters()) / 1e6,
            "text": "no other text." if data is None else _REAL_TEXT,
            "command": command,
            "seed": self.seed,
            "steps": self.step,
            "tokens": self.tokens / 1e6,
            "minutes": self.seconds / 60,
            "hardware": gpu,
            "length": max(length for stage in self.batches.stages for length in stage.lengths),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "each": 200,
            "note": "",
        }
        release(self.model, self.tokenizer, self.out / "model", facts, metrics)


def mean_weights(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """`share` of the second and the rest of the first, weight by weight."""
    return {name: first[name].lerp(weight, share) for name, weight in second.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kv_memory.pocket.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, help="folder with real text (text_childrens_books.txt.gz)")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; go on with --resume")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    text = load_text(options.data)
    training = Training(options.out, text, options.seed, architecture(), CYCLES, resume=options.resume)
    workers = max(1, (os.cpu_count() or 2) - 2)
    done = training.run(len(training.batches), workers, options.minutes)
    training.save()
    console.print(f"step {training.step}, {training.tokens / 1e6:.0f} M tokens, {training.seconds:.0f} s in all")
    if done:
        command = f"python -m kv_memory.pocket.train --out OUT --data FOLDER --seed {options.seed}"
        training.finish(options.data, command)


if __name__ == "__main__":
    main()
