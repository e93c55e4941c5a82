"""Train the pocket model from scratch.

    python -m pocket_training.train --out runs/pocket --data ../shared/data [--minutes 9] [--resume] [--weights FOLDER]

On several GPUs: `torchrun --nproc-per-node N -m pocket_training.train ...`; a batch is then N times as large.

Writes the finished model to OUT/model, a checkpoint to OUT/checkpoint.pt and, whenever it stops, its weights in bf16 to
OUT/weights. With --minutes it stops in time, and the same command with --resume continues; the result is that of one
uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from rich.console import Console
from torch import Tensor, distributed
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from pocket_training.batches import Batches, Stage
from pocket_training.corpus import RealText, chunks
from pocket_training.evaluate import Encoded, answer_cases, encode, scores, test_cases
from pocket_training.measure import measure
from pocket_training.muon import Muon
from pocket_training.pieces import pieces
from pocket_training.release import release, write_card
from pocket_training.samples import make_sample
from pocket_training.tokenizer import VOCABULARY, PieceEncoder, train_tokenizer

# Plain and short rows first: looking things up is learned suddenly after a plateau, and they shorten the plateau.
CYCLES = (
    (
        Stage(800, {256: 1.0}, 65536, 0.1, plain=True),
        Stage(1200, {256: 1.0}, 65536, 0.1),
        Stage(2000, {256: 0.3, 512: 0.7}, 65536, 0.1),
        Stage(3000, {512: 0.4, 1024: 0.6}, 65536),
        Stage(2500, {512: 0.1, 1024: 0.4, 2048: 0.5}, 65536),
        Stage(1500, {1024: 0.2, 2048: 0.3, 4096: 0.5}, 65536),
    ),
    (
        Stage(4500, {512: 0.15, 1024: 0.25, 2048: 0.3, 4096: 0.3}, 65536),
        Stage(3000, {1024: 0.15, 2048: 0.25, 4096: 0.35, 8192: 0.25}, 65536),
    ),
    (Stage(6500, {512: 0.1, 1024: 0.2, 2048: 0.25, 4096: 0.25, 8192: 0.2}, 65536),),
    (Stage(12000, {512: 0.2, 1024: 0.3, 2048: 0.25, 4096: 0.15, 8192: 0.1}, 65536),),
    (Stage(10000, {512: 0.1, 1024: 0.25, 2048: 0.25, 4096: 0.2, 8192: 0.2}, 65536),),
    (Stage(5500, {512: 0.1, 1024: 0.25, 2048: 0.25, 4096: 0.2, 8192: 0.2}, 65536),),
)
PEAK_RATES = (2.0e-3, 1.5e-3, 1.2e-3, 1.2e-3, 1.0e-3, 1.0e-3)
DECAY, WARM_UP = (0.4, 0.7, 0.7, 0.7, 0.8, 0.8), 200
"""Share of each cycle, at its end, in which the learning rate falls to 0; number of warm-up steps."""
SHARES = (0.0, 0.0, 0.0, 0.0, 0.375, 0.625)
"""Shares of the weights at the cycles' ends in the mean that ships: it is better than any one of them (WiSE-FT, arXiv
2109.01903; benchmarks/ablations.md)."""
CYCLE_END, RUN = "cycle_{}.pt", "run.json"
EVALUATE_EVERY = 2500
"""Steps between reports, which are on worlds of the shortest and the longest rows of the stage."""
EACH = 1000
"""Questions of each class and length at the end."""
_REAL_TEXT = (
    "5 % of the rows and some filler prose are 19th-century children's books (public domain), 7 % are questions about "
    "paragraphs of SQuAD 2 (CC BY-SA 4.0) and Natural Questions and about stories of bAbI (CC BY 3.0)."
)
console = Console(width=160)


def architecture() -> Qwen3Config:
    """Return the model's shape: 19.3 M parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=10,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        use_cache=True,
    )


def weighted_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy.

    hidden [tokens, width], head [vocabulary, width], targets and weights [tokens].
    """
    logits = functional.linear(hidden, head).float()
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def rate_at(step: int, steps: tuple[int, ...]) -> float:
    """Return the learning rate for cycles of these numbers of steps: in each up, level, and down to 0.

    SGDR, arXiv 1608.03983.
    """
    cycle = 0
    while step >= steps[cycle] and cycle + 1 < len(steps):
        step, cycle = step - steps[cycle], cycle + 1
    left = (steps[cycle] - step) / (DECAY[cycle] * steps[cycle])
    return PEAK_RATES[cycle] * min(1.0, (step + 1) / WARM_UP, left)


class Training:
    """One training run in its folder."""

    def __init__(
        self,
        out: Path,
        text: RealText,
        seed: int,
        config: Qwen3Config,
        cycles: tuple[tuple[Stage, ...], ...],
        *,
        resume: bool = False,
        start: tuple[Path, int] | None = None,
    ) -> None:
        """Set up a run; `start`: weights of an earlier run, and the cycle to begin with them, counted from 0."""
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed = out, seed
        self.rank, self.ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device(f"cuda:{self.rank}" if torch.cuda.is_available() else "cpu")
        if self.ranks > 1:
            torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl", device_id=self.device)
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        self.tokenizer = self._tokenizer(text, start[0] if start else None, resume)
        self.encoder = PieceEncoder(self.tokenizer)
        self.cycles = tuple(sum(stage.steps for stage in stages) for stages in cycles)
        stages = tuple(stage for stages in cycles for stage in stages)
        self.batches = Batches(stages, self.tokenizer, text, seed, self.ranks)
        self.model: Any = Qwen3ForCausalLM(config).to(self.device)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if all(p is not matrix for matrix in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=0.0),
            torch.optim.AdamW(others, lr=0.0, weight_decay=0.0, betas=(0.9, 0.95), fused=self.device.type == "cuda"),
        ]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.loss = float("nan")
        if resume:
            self._load()
        elif start is not None:
            self._begin(*start)
        self.loss_function: Any = weighted_loss
        if self.device.type == "cuda":
            for layer in self.model.model.layers:
                layer.compile(dynamic=True)
            self.loss_function = torch.compile(weighted_loss, dynamic=True)

    def _tokenizer(self, text: RealText, weights: Path | None, resume: bool) -> Any:
        """Return the run's tokenizer; at its beginning that of the weights that it begins with, or a new one."""
        folder = self.out / "tokenizer"
        if resume:  # with another one the weights would have to be learned again, and it would hardly be noticed
            return AutoTokenizer.from_pretrained(folder)
        if self.rank == 0 and weights is not None:
            AutoTokenizer.from_pretrained(weights).save_pretrained(folder)
        elif self.rank == 0 and not folder.exists():
            rng = Random(self.seed)
            samples = (make_sample(rng, 900) for _ in range(2500))
            worlds = (p.text for s in samples for p in pieces(s.messages, s.tools) if p.content or p.message < 0)
            paragraphs = (document.text for document in text.documents)
            train_tokenizer([*worlds, *paragraphs, *chunks(text.books[:3_000_000])]).save_pretrained(folder)
        if self.ranks > 1:
            distributed.barrier()
        return AutoTokenizer.from_pretrained(folder)

    def _load(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def _begin(self, weights: Path, cycle: int) -> None:
        """Begin a cycle from weights alone: those of another run count as those of the cycle before."""
        self.model.load_state_dict(Qwen3ForCausalLM.from_pretrained(weights, dtype=torch.float32).state_dict())
        self.step = sum(self.cycles[:cycle])
        self._end_cycle(cycle - 1)
        if (weights / RUN).exists():
            run = json.loads((weights / RUN).read_text())
            self.tokens, self.seconds = run["tokens"], run["seconds"]

    def _end_cycle(self, number: int) -> None:
        if self.rank == 0:
            torch.save(self.model.state_dict(), self.out / CYCLE_END.format(number))

    def write_weights(self, folder: Path) -> None:
        """Write the weights in bf16 with the tokenizer, to continue from them elsewhere."""
        release(self.model, self.tokenizer, folder)
        (folder / RUN).write_text(json.dumps({"tokens": self.tokens, "seconds": self.seconds}))

    def save(self) -> None:
        """Write the checkpoint; after a crash while writing, the one before is still there."""
        state = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        state |= {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        torch.save(state, self.out / "checkpoint.part")
        (self.out / "checkpoint.part").replace(self.out / "checkpoint.pt")

    def run(self, until: int, workers: int, minutes: float | None = None) -> bool:
        """Train up to step `until`; return False if the time was up before."""
        started, steps = time.monotonic(), sum(self.cycles)
        last, shown = started, self.tokens
        loader: DataLoader[tuple[Tensor, Tensor, Tensor]] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step * self.ranks + self.rank, until * self.ranks, self.ranks),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="fork" if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        ends = list(accumulate(self.cycles))
        for batch in loader:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate_at(self.step, self.cycles)
            loss = self.train_step(*(item.to(self.device, non_blocking=True) for item in batch))
            self.step += 1
            self.tokens += batch[0].numel() * self.ranks
            if self.step in ends:
                self._end_cycle(ends.index(self.step))
                for optimizer in self.optimizers:
                    optimizer.state.clear()  # the next cycle starts from the weights alone
            if self.step % 100 == 0:
                self.loss = float(loss)
                now = time.monotonic()
                speed = (self.tokens - shown) / (now - last)
                self.say(f"step {self.step}/{steps} loss {self.loss:.3f} {speed:,.0f} tokens/s {now - started:.0f} s")
                last, shown = now, self.tokens
            if self.step % EVALUATE_EVERY == 0 and self.rank == 0:
                self.save()
                for length in self._report_lengths():
                    self.report(length)
            if self.step % 20 == 0 and self._late(started, minutes) and self.step < until:
                self.seconds += time.monotonic() - started
                self.loss = float(loss)
                return False
        self.seconds += time.monotonic() - started
        self.loss = float(loss)
        return True

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.rank == 0:
            console.print(text, markup=False)

    def _late(self, started: float, minutes: float | None) -> bool:
        """Return whether the time is up; all processes agree."""
        if minutes is None:
            return False
        late = torch.tensor([time.monotonic() - started > 60 * minutes], dtype=torch.int32, device=self.device)
        if self.ranks > 1:
            distributed.broadcast(late, 0)
        return bool(late.item())

    def _report_lengths(self) -> tuple[int, ...]:
        lengths = self.batches.stage(self.step - 1).lengths
        return tuple(dict.fromkeys((min(lengths), min(4096, max(lengths)))))

    def train_step(self, ids: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
        """Run one step of the optimizers and return the loss. All arguments [rows, length]."""
        self.model.train()
        causal = {"full_attention": None}  # without it, holes in the positions would be taken for packed sequences
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model.model(
                input_ids=ids, position_ids=positions, attention_mask=causal, use_cache=False
            ).last_hidden_state
            weights = weights[:, 1:].flatten()
            learned = weights.nonzero().squeeze(1)
            loss: Tensor = self.loss_function(
                hidden[:, :-1].flatten(0, 1)[learned],
                self.model.lm_head.weight,
                ids[:, 1:].flatten()[learned],
                weights[learned],
            )
        torch.autograd.backward(loss)
        if self.ranks > 1:
            gradients = [p.grad for p in self.model.parameters()]
            joint = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(joint, distributed.ReduceOp.AVG)
            parts = torch.split(joint, [gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @cache  # noqa: B019  # lives as long as the training
    def _cases(self, length: int) -> list[Encoded]:
        return [encode(self.encoder, case) for case in test_cases(length, 16)]

    def report(self, length: int) -> None:
        """Print exact match on unseen worlds of this length, by class, and a few samples."""
        cases = self._cases(length)
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):
            outcomes = answer_cases(self.model, cases)
        result = scores(cases, outcomes)
        console.print(f"  {length} tokens: " + " ".join(f"{group} {share:.2f}" for group, share in result.items()))
        for case, outcome in list(zip(cases, outcomes, strict=True))[:: len(cases) // 4 or 1]:
            said = self.encoder.decode(outcome.best)
            console.print(f"    {case.group}: {case.question} -> {said!r}, right: {case.answer!r}", markup=False)

    def finish(self, data: Path | None, command: str) -> None:
        """Average the cycles, measure the model and write it as it ships."""
        found = [(self.out / CYCLE_END.format(number), share) for number, share in enumerate(SHARES)]
        found = [(file, share) for file, share in found if share and file.exists()]
        if found:
            ends = [torch.load(file, map_location=self.device, weights_only=True) for file, _ in found]
            total = sum(share for _, share in found)
            self.model.load_state_dict(mean_weights(ends, [share / total for _, share in found]))
        figures = measure(self.model.eval(), self.encoder, EACH, data)
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        facts = {
            "parameters": sum(p.numel() for p in self.model.parameters()) / 1e6,
            "text": "no other text." if data is None else _REAL_TEXT,
            "command": command,
            "seed": self.seed,
            "steps": self.step,
            "tokens": self.tokens / 1e6,
            "minutes": self.seconds / 60,
            "hardware": f"{self.ranks} {gpu}",
            "length": max(length for stage in self.batches.stages for length in stage.lengths),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "each": EACH,
            "shares": " and ".join(f"{share:g}" for share in SHARES if share),
            "note": "",
        }
        release(self.model, self.tokenizer, self.out / "model")
        write_card(self.out / "model", facts | figures)


def mean_weights(sets: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the mean of several sets of weights with these shares, weight by weight."""
    means = {name: torch.zeros_like(weight) for name, weight in sets[0].items()}
    for weights, share in zip(sets, shares, strict=True):
        for name, mean in means.items():
            mean.add_(weights[name], alpha=share)
    return means


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pocket_training.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, help="folder with real text (text_childrens_books.txt.gz)")
    parser.add_argument("--weights", type=Path, help="folder of weights to begin with, those of an earlier run")
    parser.add_argument("--cycle", type=int, default=len(CYCLES) - 1, help="the cycle to begin with them, from 0")
    parser.add_argument("--minutes", type=float, help="stop after this many minutes; continue with --resume")
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--finish", action="store_true", help="write the model from what there is when the time is up")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    text = RealText.load(options.data)
    start = (options.weights, options.cycle) if options.weights else None
    training = Training(options.out, text, options.seed, architecture(), CYCLES, resume=options.resume, start=start)
    workers = max(1, (os.cpu_count() or 2) // training.ranks - 2)
    done = training.run(sum(training.cycles), workers, options.minutes)
    training.say(f"step {training.step}, {training.tokens / 1e6:.0f} M tokens, {training.seconds:.0f} s in all")
    if training.rank == 0:
        training.save()
        training.write_weights(training.out / "weights")
        if done or options.finish:
            command = f"python -m pocket_training.train --out OUT --data FOLDER --seed {options.seed}"
            training.finish(options.data, command)
    if training.ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
