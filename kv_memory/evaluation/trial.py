"""One case before and after an eraser, beside never-saw: divergence, agreement and time.

Agreement is found in one forward pass: greedy decoding gives never-saw's answer exactly if each of its tokens is the
most likely one after those before it. Where given tokens are scored, it is that of the most likely token at each place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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

    def __init__(
        self, engine: Engine, case: Case, read: SequenceId, never: SequenceId, answer_tokens: int = ANSWER_TOKENS
    ) -> None:
        self.engine = engine
        self.case = case
        self.read = read
        self._limit = answer_tokens
        answer = self._greedy(never) if case.scored is None else []
        self.answer = engine.tokenizer.decode(answer).strip()
        """Answer of never-saw; empty where given tokens are scored."""
        # What follows the answer, usually its end, is scored as well. `score` gives the rows before each token, so the
        # last token does not matter: 0 stands for any.
        self._scored = (*answer, 0) if case.scored is None else case.scored
        self.reference = self.score(never)
        """Never-saw's log-probabilities [tokens, vocabulary] before each scored token."""

    @property
    def answered(self) -> bool:
        """Return whether never-saw's answer says what is right, perhaps with words around it."""
        right = self.case.answer
        return right is not None and (self.case.right(self.answer) or (self.case.call is None and right in self.answer))

    def run(self, eraser: Eraser | None) -> Outcome:
        """Erase from a copy and score it; None erases nothing."""
        with self.erased(eraser) as (seq, seconds, recomputed):
            return self.outcome(self.score(seq), seconds, recomputed)

    def outcome(self, scores: Tensor, seconds: float = 0.0, recomputed: int = 0) -> Outcome:
        """Return how log-probabilities as `score` gives them differ from never-saw's."""
        return Outcome(
            kl=mean_kl(self.reference, scores),
            agrees=bool((scores.argmax(-1) == self.reference.argmax(-1)).all()),
            seconds=seconds,
            recomputed=recomputed,
        )

    def answer_after(self, eraser: Eraser | None) -> str:
        """Return the greedy answer after erasing."""
        with self.erased(eraser) as (seq, _, _):
            return self.greedy(seq)

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

    def score(self, seq: SequenceId, tail: Sequence[int] | None = None, engine: Engine | None = None) -> Tensor:
        """Return the log-probabilities [tokens, vocabulary] before each scored token.

        They come after the case's tail or this one, in a sequence of this trial's engine or of `engine`.
        """
        asked = self.case.tail if tail is None else tail
        scores = require(engine or self.engine, Scoring, "A trial").score(seq, [*asked, *self._scored])[len(asked) :]
        return scores.to(self.reference.device) if engine is not None else scores

    def greedy(self, seq: SequenceId, tail: Sequence[int] | None = None, engine: Engine | None = None) -> str:
        """Return the greedy answer, after what `score` takes; the sequence is the same afterwards."""
        return self.engine.tokenizer.decode(self._greedy(seq, tail, engine)).strip()

    def _greedy(self, seq: SequenceId, tail: Sequence[int] | None = None, engine: Engine | None = None) -> list[int]:
        by = engine or self.engine
        start = by.next_position(seq)
        try:
            by.prefill(seq, self.case.tail if tail is None else tail)
            answer = by.generate(seq, Sampling(max_tokens=self._limit))
            return [token.id for token in answer if token.id >= 0]
        finally:
            by.truncate(seq, start)


@contextmanager
def trial(engine: Engine, case: Case, answer_tokens: int = ANSWER_TOKENS) -> Iterator[Trial]:
    """Prefill a case; its cells are freed after the block. `answer_tokens`: largest number of an answer's tokens."""
    read, never = engine.create(), engine.create()
    try:
        engine.prefill(read, case.ids)
        engine.prefill(never, case.kept)
        yield Trial(engine, case, read, never, answer_tokens)
    finally:
        engine.free(read)
        engine.free(never)


def now() -> float:
    """Return the time in seconds, once the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
