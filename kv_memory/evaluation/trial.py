"""One case before and after an eraser, beside never-saw: divergence, agreement and time.

Agreement is found in one forward pass: greedy decoding gives never-saw's answer exactly if each of its tokens is the
most likely one after those before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_memory.engines.base import Engine, Sampling, SequenceId
from kv_memory.engines.parts import Scoring, require
from kv_memory.erasers.base import Eraser
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.metrics import mean_kl

ANSWER_TOKENS = 128


@dataclass(frozen=True)
class Outcome:
    """The result of one eraser on one case."""

    kl: float
    """Mean KL from never-saw over the tokens that follow, or over never-saw's answer; in nats."""
    agrees: bool
    """Whether greedy decoding gives never-saw's tokens."""
    seconds: float
    recomputed: int


class Trial:
    """A case, prefilled with its spans and without them."""

    def __init__(self, engine: Engine, case: Case, read: SequenceId, never: SequenceId) -> None:
        self.engine = engine
        self.case = case
        self.read = read
        answer = [] if case.answer is None else self._greedy(never)
        self.answer = engine.tokenizer.decode(answer).strip()
        """Answer of never-saw; empty for text."""
        # What follows the answer, usually its end, is scored as well. `score` gives the rows before each token, so the
        # last token does not matter: 0 stands for any.
        self._asked = [*case.tail, *answer] if case.answer is None else [*case.tail, *answer, 0]
        self._scored = slice(0 if case.answer is None else len(case.tail), None)
        self._reference = self._score(never)

    @property
    def answered(self) -> bool:
        """Return whether never-saw's answer says what is right, perhaps with words around it."""
        right = self.case.answer
        return right is not None and (self.case.right(self.answer) or (self.case.call is None and right in self.answer))

    def run(self, eraser: Eraser | None) -> Outcome:
        """Erase from a copy and score it; None erases nothing."""
        with self.erased(eraser) as (seq, seconds, recomputed):
            scores = self._score(seq)
        return Outcome(
            kl=mean_kl(self._reference, scores),
            agrees=bool((scores.argmax(-1) == self._reference.argmax(-1)).all()),
            seconds=seconds,
            recomputed=recomputed,
        )

    def answer_after(self, eraser: Eraser | None) -> str:
        """Return the greedy answer after erasing."""
        with self.erased(eraser) as (seq, _, _):
            return self.engine.tokenizer.decode(self._greedy(seq)).strip()

    @contextmanager
    def erased(self, eraser: Eraser | None) -> Iterator[tuple[SequenceId, float, int]]:
        """Fork the cells and erase the spans there; yield the copy, the seconds taken, and the number of tokens
        recomputed."""
        seq = self.engine.fork(self.read)
        try:
            started = now()
            done = eraser.erase(self.engine, seq, self.case.spans) if eraser else None
            yield seq, now() - started, done.recomputed if done else 0
        finally:
            self.engine.free(seq)

    def _score(self, seq: SequenceId) -> Tensor:
        return require(self.engine, Scoring, "A trial").score(seq, self._asked)[self._scored]

    def _greedy(self, seq: SequenceId) -> list[int]:
        """Return the tokens of the greedy answer; the sequence is the same afterwards."""
        start = self.engine.next_position(seq)
        try:
            self.engine.prefill(seq, self.case.tail)
            answer = self.engine.generate(seq, Sampling(max_tokens=ANSWER_TOKENS))
            return [token.id for token in answer if token.id >= 0]
        finally:
            self.engine.truncate(seq, start)


@contextmanager
def trial(engine: Engine, case: Case) -> Iterator[Trial]:
    """Prefill a case; its cells are freed after the block."""
    read, never = engine.create(), engine.create()
    try:
        engine.prefill(read, case.ids)
        engine.prefill(never, case.kept)
        yield Trial(engine, case, read, never)
    finally:
        engine.free(read)
        engine.free(never)


def now() -> float:
    """Return the time in seconds, once the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
