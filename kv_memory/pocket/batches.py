"""Training batches: batch `n` of a seed is always the same, whichever process makes it and whenever."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kv_memory.pocket.corpus import Passages
from kv_memory.pocket.pieces import TURN_END, pieces
from kv_memory.pocket.samples import Sample, make_sample
from kv_memory.pocket.tokenizer import PieceEncoder

TEXT_WEIGHT = 0.1
"""Weight in the loss of a token that is not part of an answer."""
_TEXT_ROWS = 0.02
"""Share of rows that are real text."""
_FILLS = (0.95, 0.85, 0.7, 0.5, 0.3)
"""How many tokens to ask of the generator, as a share of the row."""


@dataclass(frozen=True)
class Stage:
    """A part of the training: so many steps, with rows of these lengths."""

    steps: int
    lengths: dict[int, float]
    """Length of a row in tokens, and the share of the batches that have it."""
    tokens: int
    """Tokens in a batch."""


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batches of all stages, by step."""

    def __init__(self, stages: tuple[Stage, ...], tokenizer: Any, text: str, seed: int) -> None:
        self.stages = stages
        self.encoder = PieceEncoder(tokenizer)
        self.end: int = tokenizer.pad_token_id
        self.text = text
        self.seed = seed

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Token ids [rows, length] and the weights of the loss of predicting each of them, same shape."""
        rng = Random(f"{self.seed}:{step}")
        stage = self._stage(step)
        length = rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
        rows = max(1, stage.tokens // length)
        ids, marks = array("h"), array("b")
        for _ in range(rows):
            row_ids, row_marks = self._row(rng, length)
            padding = length - len(row_ids)
            ids.extend(row_ids + [self.end] * padding)
            marks.extend(row_marks + [0] * padding)
        weights = torch.tensor([0.0, TEXT_WEIGHT, 1.0])
        return (
            torch.frombuffer(ids, dtype=torch.int16).view(rows, length).long(),
            weights[torch.frombuffer(marks, dtype=torch.int8).view(rows, length).long()],
        )

    def _stage(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise IndexError(step)

    def _row(self, rng: Random, length: int) -> tuple[list[int], list[int]]:
        passage = Passages(self.text, rng, min(600, length)) if self.text else None
        if passage and rng.random() < _TEXT_ROWS:
            whole = Passages(self.text, rng, length * 6)()
            ids = self.encoder.encode(pieces([{"role": "user", "content": whole}]))[1][:length]
            return ids, [1] * len(ids)
        if rng.random() < 0.5:
            passage = None
        for share in _FILLS:  # what is cut off are answers, the best part: rather try again with less
            ids, marks = encode_sample(self.encoder, make_sample(rng, int(length * share), passage))
            if len(ids) <= length:
                break
        return ids[:length], marks[:length]


def encode_sample(encoder: PieceEncoder, sample: Sample) -> tuple[list[int], list[int]]:
    """The ids of a sample, and for each 2 where it is part of an answer (its end included), else 1."""
    ids: list[int] = []
    marks: list[int] = []
    items = pieces(sample.messages, sample.tools)
    for item, encoded in zip(items, encoder.encode(items), strict=True):
        answer = item.message in sample.answers and (item.content or item.text.startswith(TURN_END))
        ids += encoded
        # Of the scaffolding after an answer only the first token, the end of the turn, is the answer's.
        marks += [2 if answer and (item.content or place == 0) else 1 for place in range(len(encoded))]
    return ids, marks
