"""What a sequence computes is the same to the last bit whichever other sequences there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_memory.engines.base import SequenceId
from kv_memory.engines.llama_cpp import LlamaCppEngine

Make = Callable[..., LlamaCppEngine]
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16, flash attention": {"dtype": "float16"},
    "float16, two threads": {"dtype": "float16", "threads": 2},
}


def text(length: int, seed: int) -> list[int]:
    return torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def turns(engine: LlamaCppEngine, seq: SequenceId) -> Iterator[Tensor]:
    """A conversation with edits of each kind, and its logits after each of its turns."""
    engine.prefill(seq, text(37, 1))
    yield engine.next_logits(seq)
    engine.prefill(seq, text(50, 2))
    engine.drop(seq, 20, 33)
    engine.prefill(seq, text(5, 3))
    yield engine.next_logits(seq)
    engine.reencode(seq, [40, 41, 60])
    engine.prefill(seq, text(3, 4))
    yield engine.score(seq, [7, 8])
    engine.shift(seq, 33, -13)
    fork = engine.fork(seq, 60)
    engine.prefill(fork, text(4, 5))
    yield engine.next_logits(fork)
    engine.prefill(seq, text(4, 5))
    yield engine.next_logits(seq)
    engine.truncate(seq, 30)
    engine.write_cells(seq, engine.read_cells(seq, [3, 4]))
    engine.prefill(seq, text(9, 6))
    yield engine.next_logits(seq)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("length", [1, 70, 130])
def test_logits_are_those_of_a_conversation_that_is_alone(engine: Make, kind: str, length: int) -> None:
    alone, shared = (engine("qwen3", **SETTINGS[kind]) for _ in range(2))
    expected = list(turns(alone, alone.create()))
    other, mine = shared.create(), shared.create()
    shared.prefill(other, text(length, 7))
    for number, found in enumerate(turns(shared, mine)):
        assert torch.equal(found, expected[number])
        shared.prefill(other, text(length // 10 + 1, number))
        shared.free(shared.fork(other))


def test_two_conversations_do_not_disturb_each_other(engine: Make) -> None:
    alone, shared = engine("qwen3"), engine("qwen3")
    expected = list(turns(alone, alone.create()))
    for pair in zip(turns(shared, shared.create()), turns(shared, shared.create()), expected, strict=True):
        assert torch.equal(pair[0], pair[2])
        assert torch.equal(pair[1], pair[2])
