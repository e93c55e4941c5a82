"""A cell of a llama.cpp context that was moved many times has the key that one move would have given it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch

from kv_memory.engines.base import SequenceId
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.testing.reference import all_cells, assert_same_cells, random_moves

Make = Callable[..., LlamaCppEngine]
IDS = [(7 * i) % 400 for i in range(60)]


def filled(engine: LlamaCppEngine) -> SequenceId:
    seq = engine.create()
    engine.prefill(seq, IDS)
    return seq


def close_gaps(engine: LlamaCppEngine, seq: SequenceId) -> None:
    for place in range(len(engine.positions(seq))):
        position = engine.positions(seq)[place]
        engine.shift(seq, position, place - position)


@pytest.mark.parametrize("name", ["llama-mha-llama3", "qwen3-yarn", "llama"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_many_moves_are_one_move(engine: Make, name: str, dtype: str) -> None:
    """To the bit; and what is kept of the probe layers is what the context holds."""
    mine = engine(name, dtype=dtype)
    seq = filled(mine)
    once = mine.fork(seq)
    before = all_cells(mine, seq)
    random_moves(mine, seq, Random(0), 300)
    after = all_cells(mine, seq)
    store = mine._sequences.get(seq).store
    assert torch.equal(store.keys[0][0][:, store.order()[1]], after.keys[mine.probe_layers[0]])
    close_gaps(mine, seq)
    assert_same_cells(all_cells(mine, seq), before)
    mine.shift(seq, 0, 40)
    mine.shift(once, 0, 40)
    assert_same_cells(all_cells(mine, seq), all_cells(mine, once))


def test_forks_and_cells_outside_of_the_context_are_moved_from_where_they_were_read(engine: Make) -> None:
    mine = engine(dtype="float16", context_length=80, cells=80)
    seq = filled(mine)
    once = mine.fork(seq)
    mine.shift(once, 20, 12)
    expected = all_cells(mine, once)
    mine.shift(seq, 20, 5)
    fork = mine.fork(seq)
    for _ in range(5):  # no room is left for the others
        filled(mine)
    assert mine._sequences.get(seq).home is None
    for other in (seq, fork):
        mine.shift(other, 25, 7)
        assert_same_cells(all_cells(mine, other), expected)


def test_cells_with_new_rows_are_moved_from_there(engine: Make) -> None:
    """Computed again, written back and put in the place of removed ones: as in a sequence that was never moved."""
    mine = engine(dtype="float16")
    seq, never_moved = filled(mine), mine.create()
    mine.drop(seq, 10, 20)
    mine.shift(seq, 20, -3)
    mine.write_cells(seq, mine.read_cells(seq, range(40, 45)))
    mine.reencode(seq, [*range(17, 40), *range(45, 50)])
    mine.truncate(seq, 50)
    mine.prefill(seq, [1, 2, 3])
    mine.write_cells(never_moved, all_cells(mine, seq))
    for other in (seq, never_moved):
        mine.shift(other, 17, -7)
    assert_same_cells(all_cells(mine, seq), all_cells(mine, never_moved))
    assert len(mine._sequences.get(seq).store.origins.slots) == 36
