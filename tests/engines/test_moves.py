"""A cell that was moved many times has the key that one move would have given it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig

from kv_memory.engines.base import Cells, SequenceId
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.rotary import Turn
from kv_memory.testing.reference import all_cells, assert_same_cells, flat, random_moves
from tests.engines.test_rope import IDS, MOVABLE, SHAPE, engine_of

CONTEXT = 8192
FAR = LlamaConfig(**{**SHAPE, "max_position_embeddings": CONTEXT})
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def read(engine: TransformersEngine) -> SequenceId:
    seq = engine.create()
    engine.prefill(seq, IDS)
    return seq


def turned(rows: Tensor, frequencies: Tensor, deltas: Tensor) -> Tensor:
    """Rotate rows [..., cells, head_dim] by `deltas` [cells], in float64 and without rounding the result."""
    half = len(frequencies)
    pairs = torch.complex(rows[..., :half].double(), rows[..., half:].double())
    angles = deltas.double()[:, None] * frequencies.double()
    pairs *= torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def assert_rounded_once(actual: Tensor, exact: Tensor) -> None:
    """Assert that rows are the exact ones, rounded to their dtype; but for the arithmetic's own, far finer rounding."""
    info = torch.finfo(actual.dtype)
    step = torch.ldexp(torch.full_like(exact, info.eps), torch.frexp(exact).exponent - 1)
    step = step.clamp(min=info.smallest_normal * info.eps)
    half = exact.shape[-1] // 2
    length = torch.complex(exact[..., :half], exact[..., half:]).abs()
    length = torch.cat([length, length], -1)
    finer = 1e-14 if actual.dtype == torch.float32 else 3e-7
    assert bool(((actual.double() - exact).abs() <= step / 2 + finer * length).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_thousand_moves_round_once(dtype: torch.dtype) -> None:
    """Against one rotation of the first keys in float64."""
    engine = engine_of(FAR, dtype)
    frequencies = next(m.inv_freq for m in engine._forward.model.modules() if hasattr(m, "inv_freq"))
    seq = read(engine)
    before = all_cells(engine, seq)
    random_moves(engine, seq, Random(0), 1000)
    after = all_cells(engine, seq)
    deltas = torch.tensor(after.positions) - torch.tensor(before.positions)
    assert int(deltas.abs().max()) > 1000
    for rows, old in zip((*after.keys, *after.queries), (*before.keys, *before.queries), strict=True):
        assert_rounded_once(rows, turned(old, frequencies, deltas))
    assert torch.equal(flat(after.values), flat(before.values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", MOVABLE.values(), ids=MOVABLE)
def test_moves_are_one_move(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """With all kinds of embeddings, to the bit; and back where they came from, cells are as they were."""
    engine = engine_of(config, dtype)
    seq, once = read(engine), read(engine)
    before = all_cells(engine, seq)
    for delta in (3, 40, -17, 1, 20, -40, 33):
        engine.shift(seq, engine.positions(seq)[0], delta)
    engine.shift(once, 0, 40)
    assert_same_cells(all_cells(engine, seq), all_cells(engine, once))
    engine.shift(seq, 40, -40)
    assert_same_cells(all_cells(engine, seq), before)


def test_moved_cells_are_moved_on_in_a_fork() -> None:
    engine = engine_of(FAR, torch.bfloat16)
    seq, once = read(engine), read(engine)
    engine.shift(seq, 10, 5)
    fork, part = engine.fork(seq), engine.fork(seq, 30)
    before = all_cells(engine, seq)
    for other in (fork, part):
        engine.shift(other, 15, 7)
    assert_same_cells(all_cells(engine, seq), before)
    engine.shift(once, 10, 12)
    expected = all_cells(engine, once)
    assert_same_cells(all_cells(engine, fork), expected)
    assert_same_cells(all_cells(engine, part), engine.read_cells(once, engine.positions(part)))
    engine.free(fork)
    engine.shift(seq, 15, 7)
    assert_same_cells(all_cells(engine, seq), expected)


def test_cells_that_were_computed_again_are_moved_from_there() -> None:
    engine = engine_of(FAR, torch.bfloat16)
    seq = read(engine)
    engine.drop(seq, 10, 20)
    engine.shift(seq, 20, -3)
    engine.reencode(seq, range(20, 25))
    again, expected = engine.create(), engine.create()
    engine.write_cells(expected, all_cells(engine, seq))
    engine.shift(seq, 17, -7)
    engine.shift(expected, 17, -7)
    assert_same_cells(engine.read_cells(seq, range(13, 18)), engine.read_cells(expected, range(13, 18)))
    engine.prefill(again, IDS)
    engine.drop(again, 10, 20)
    engine.shift(again, 20, -10)
    others = [*range(10, 13), *range(18, 30)]
    assert_same_cells(engine.read_cells(seq, others), engine.read_cells(again, others))


def test_cells_written_back_are_bit_identical_and_moved_from_there() -> None:
    engine = engine_of(FAR, torch.bfloat16)
    seq = read(engine)
    random_moves(engine, seq, Random(1), 20)
    before = all_cells(engine, seq)
    chosen = before.positions[5:25]
    undo = engine.read_cells(seq, chosen)
    engine.reencode(seq, chosen[:10])
    for position in chosen[10:]:
        engine.drop(seq, position, position + 1)
    engine.write_cells(seq, undo)
    assert_same_cells(all_cells(engine, seq), before)
    other = engine.create()
    engine.write_cells(other, undo)
    engine.shift(seq, before.positions[0], 1)
    engine.shift(other, chosen[0], 1)
    assert_same_cells(engine.read_cells(seq, engine.positions(other)), all_cells(engine, other))


def test_a_new_cell_in_the_place_of_a_moved_one_is_moved_from_where_it_was_read() -> None:
    engine = engine_of(FAR, torch.bfloat16)
    seq, expected = read(engine), engine.create()
    engine.shift(seq, 20, 100)
    engine.truncate(seq, 120)
    engine.prefill(seq, [7, 8, 9])
    engine.write_cells(expected, all_cells(engine, seq))
    engine.shift(seq, 20, 50)
    engine.shift(expected, 20, 50)
    assert_same_cells(all_cells(engine, seq), all_cells(engine, expected))


CHANGE_NOTHING: dict[str, Callable[[TransformersEngine, SequenceId], object]] = {
    "next token": lambda engine, seq: engine.next_logits(seq),
    "score": lambda engine, seq: engine.score(seq, [1, 2, 3]),
    "deviation": lambda engine, seq: engine.deviation(seq, engine.positions(seq), layer=2),
    "read": lambda engine, seq: engine.read_cells(seq, engine.positions(seq)),
}


@pytest.mark.parametrize("call", CHANGE_NOTHING)
def test_what_changes_no_cell_leaves_where_it_was_first(call: str) -> None:
    engine = engine_of(FAR, torch.bfloat16)
    seq = read(engine)
    before = all_cells(engine, seq)
    engine.shift(seq, 0, 21)
    CHANGE_NOTHING[call](engine, seq)
    engine.shift(seq, 21, -21)
    assert_same_cells(all_cells(engine, seq), before)


@pytest.mark.parametrize("times", [0, 1], ids=["first move", "later move"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interrupted_move_is_as_none(
    times: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at the third layer."""
    engine = engine_of(FAR, torch.bfloat16)
    seq, once = read(engine), read(engine)
    for _ in range(times):
        engine.shift(seq, 10, 4)
    before = all_cells(engine, seq)
    calls = []

    def failing(turn: Turn, *args: Tensor, turned: Callable[..., Tensor] = Turn.turned) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return turned(turn, *args)

    with monkeypatch.context() as broken, pytest.raises(error):
        broken.setattr(Turn, "turned", failing)
        engine.shift(seq, 10 + 4 * times, 9)
    assert_same_cells(all_cells(engine, seq), before)
    engine.shift(seq, 10 + 4 * times, 9)
    engine.shift(once, 10, 9 + 4 * times)
    assert_same_cells(all_cells(engine, seq), all_cells(engine, once))


def test_only_cells_that_are_there_keep_what_they_were() -> None:
    """A second copy is kept of moved cells alone, and none of cells that were erased or computed again."""
    engine = engine_of(FAR)
    seq = read(engine)

    def kept() -> int:
        origins = engine._sequences[seq].store.origins
        assert all(rows.shape[2] == len(origins.slots) for rows in origins.rows)
        return len(origins.slots)

    assert kept() == 0
    engine.shift(seq, 30, 8)
    assert kept() == 10
    engine.shift(seq, 38, 8)
    engine.shift(seq, 28, 1)
    assert kept() == 12
    engine.drop(seq, 47, 49)
    assert kept() == 10
    engine.reencode(seq, [49, 50])
    assert kept() == 8
    cells: Cells = engine.read_cells(seq, [51])
    engine.write_cells(seq, cells)
    assert kept() == 7
    engine.truncate(seq, 40)
    assert kept() == 2
    engine.truncate(seq, 0)
    assert not engine._sequences[seq].store.origins.rows
