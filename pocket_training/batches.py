"""Training batches: batch `n` of a seed is always the same, in every process."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kv_memory.synthetic.drafts import TOKENS_WITH_TOOLS
from pocket_training.corpus import RealText
from pocket_training.drills import call_sample, spelled_words, spelling_sample
from pocket_training.pieces import TURN_END, TURN_START, Piece, pieces
from pocket_training.reading import reading_sample
from pocket_training.samples import Sample, make_sample, plain_sample
from pocket_training.tokenizer import PieceEncoder

_TEXT_ROWS, _READING_ROWS, _SPELLING_ROWS, _CALL_ROWS = 0.05, 0.07, 0.08, 0.2
"""Shares of rows that are plain real text, that are questions about it, and that are drills."""
_LONGEST_DRILL = 2048
_REAL = 0.2
"""Weight in the loss of a token of real text: from it the model learns how English goes on."""
_TEXT_SHARE = 0.25
"""Share of the tokens outside of answers that are in the loss, with more weight instead: it is enough, and quicker."""
_GAPS, _FARTHEST = 0.25, 12288
"""Share of rows with holes in the positions, and the last position that they lead to: an erased span leaves a hole,
and distances that are longer than the rows are then known."""
NOTHING, TEXT, ANSWER, REAL = range(4)
"""Marks of tokens: not to be learned, text, or part of an answer."""
_FILLS = (0.95, 0.85, 0.7, 0.5, 0.3)
"""Number of tokens to ask of the generator, as a share of the row."""


@dataclass(frozen=True)
class Stage:
    """A part of the training: a number of steps, with rows of these lengths."""

    steps: int
    lengths: dict[int, float]
    """Length of a row in tokens, and the share of the batches that have it."""
    tokens: int
    """Tokens in a batch of one process."""
    text: float = 0.03
    """Weight in the loss of a token that is not part of an answer. Most of them are random: their noise is in the way
    of the last points, but predicting them is how copying is first learned. Real text weighs `_REAL` at least."""
    plain: bool = False
    """Look-ups in plain words alone."""


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The batches of all stages, by step."""

    def __init__(self, stages: tuple[Stage, ...], tokenizer: Any, text: RealText, seed: int, ranks: int = 1) -> None:
        self.stages = stages
        self.encoder = PieceEncoder(tokenizer)
        self.words = spelled_words(tokenizer)
        self.end: int = tokenizer.pad_token_id
        self.text = text
        self.seed = seed
        self.ranks = ranks
        """Number of processes that train together: step s of process r has batch s * ranks + r."""

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages) * self.ranks

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return token ids [rows, length], the weights of the loss of predicting each of them, and their positions.

        All have the same shape.
        """
        step = index // self.ranks
        stage = self.stage(step)
        rng = Random(f"{self.seed}:{step}")  # all processes have rows of one length
        length = rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
        rng = Random(f"{self.seed}:{step}:{index % self.ranks}")
        rows = max(1, stage.tokens // length)
        ids, marks = array("h"), array("b")
        for _ in range(rows):
            row_ids, row_marks = self._row(rng, length, stage.plain)
            padding = length - len(row_ids)
            ids.extend(row_ids + [self.end] * padding)
            marks.extend(row_marks + [0] * padding)
        weights = torch.tensor([0.0, stage.text / _TEXT_SHARE, 1.0, max(_REAL, stage.text) / _TEXT_SHARE])
        kept = torch.tensor([_TEXT_SHARE, _TEXT_SHARE, 1.0, _TEXT_SHARE])
        marked = torch.frombuffer(marks, dtype=torch.int8).view(rows, length).long()
        drawn = torch.rand(rows, length, generator=torch.Generator().manual_seed(rng.getrandbits(62)))
        return (
            torch.frombuffer(ids, dtype=torch.int16).view(rows, length).long(),
            weights[marked] * (drawn < kept[marked]),
            torch.stack([positions(rng, length) for _ in range(rows)]),
        )

    def stage(self, step: int) -> Stage:
        """Return the stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise IndexError(step)

    def _row(self, rng: Random, length: int, plain: bool) -> tuple[list[int], list[int]]:
        text, longest = self.text, min(900, length)
        draw = rng.random()
        if plain:
            return self._fit(length, lambda tokens: plain_sample(rng, tokens))
        if text.books and draw < _TEXT_ROWS:
            ids = self.encoder.encode(pieces([{"role": "user", "content": text.passage(rng, length * 6)}]))[1][:length]
            return ids, [REAL] * len(ids)
        draw -= _TEXT_ROWS
        if 0 <= draw < _READING_ROWS and length > 256:
            return self._fit(length, lambda tokens: reading_sample(rng, tokens, text))
        draw -= _READING_ROWS
        if length <= _LONGEST_DRILL and 0 <= draw < _SPELLING_ROWS:
            return self._fit(length, lambda tokens: spelling_sample(rng, tokens, self.words))
        draw -= _SPELLING_ROWS
        if 2 * TOKENS_WITH_TOOLS < length <= _LONGEST_DRILL and 0 <= draw < _CALL_ROWS:
            return self._fit(length, lambda tokens: call_sample(rng, tokens))
        passage = (lambda: text.passage(rng, longest)) if text.books and rng.random() < 0.5 else None
        return self._fit(length, lambda tokens: make_sample(rng, tokens, passage))

    def _fit(self, length: int, make: Callable[[int], Sample]) -> tuple[list[int], list[int]]:
        """Return a sample of at most this length.

        Cutting a longer one off would lose answers, its best part: a sample with fewer tokens is drawn instead.
        """
        for share in _FILLS:
            ids, marks = encode_sample(self.encoder, make(int(length * share)))
            if len(ids) <= length:
                break
        return ids[:length], marks[:length]


def positions(rng: Random, length: int) -> Tensor:
    """Return the positions of a row of `length` tokens, in some rows with holes at one to four places: int64 [length].

    Holes teach longer distances than those of the training rows (cf. positional skip-wise training, arXiv 2309.10400).
    """
    result = torch.arange(length)
    if rng.random() < _GAPS:
        widest = math.log(max(2, _FARTHEST - length))
        left = int(math.exp(rng.uniform(math.log(2), widest)))
        for _ in range(rng.randint(1, 4)):
            gap = rng.randint(1, max(1, left))
            left -= gap
            result[rng.randrange(length) :] += gap
            if left <= 0:
                break
    return result


def encode_sample(encoder: PieceEncoder, sample: Sample) -> tuple[list[int], list[int]]:
    """Return the ids of a sample, and for each its mark.

    `ANSWER` where it is part of an answer (its end included), `TEXT`, or `NOTHING` where it is not to be learned.
    """
    ids: list[int] = []
    marks: list[int] = []
    items = pieces(sample.messages, sample.tools)
    for item, encoded in zip(items, encoder.encode(items), strict=True):
        ids += encoded
        marks += _marks(item, len(encoded), sample)
    return ids, marks


def _marks(item: Piece, count: int, sample: Sample) -> list[int]:
    if item.message in sample.wrong:
        return [NOTHING] * count
    if item.message not in sample.answers or (not item.content and item.text.startswith(TURN_START)):
        return [TEXT] * count
    # Of the scaffolding after an answer only the first token, the end of the turn, is the answer's.
    end = not item.content and item.text.startswith(TURN_END)
    return [ANSWER] + [TEXT] * (count - 1) if end else [ANSWER] * count
