"""What goes wrong in llama.cpp itself, and does not here; those that end a process run in one of their own.

Traps 3, 6, 7 and 8, and the quantised part of 1, are refusals: test_refusals.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kv_memory.engines.base import Cells
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.llama_cpp.library import library
from kv_memory.erasers.shift import Shift
from kv_memory.errors import ContextLengthError
from kv_memory.testing.reference import all_cells, assert_close, assert_same_cells, flat

IDS = [(7 * i) % 400 for i in range(60)]
Make = Callable[..., LlamaCppEngine]


def filled(engine: LlamaCppEngine, ids: list[int] = IDS) -> int:
    seq = engine.create()
    engine.prefill(seq, ids)
    return seq


def test_the_librarys_own_shift_is_never_called(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traps 1, 2, 4, 5 and 7 are all of `seq_add`."""
    mine = engine()
    seq = filled(mine)
    for name in ("llama_memory_seq_add", "llama_memory_seq_div"):
        monkeypatch.setattr(library(), name, lambda *_: pytest.fail("moved by the library"))
    Shift().erase(mine, seq, [(10, 20)])
    assert mine.positions(seq) == list(range(50))


@pytest.mark.parametrize("variable", ["LLAMA_ATTN_ROT_DISABLE", "NOTHING"])
def test_trap_1_a_shift_does_not_end_the_process(converted: Callable[[str], Path], variable: str) -> None:
    code = (
        "import sys\nfrom kv_memory.engines.llama_cpp import LlamaCppEngine\n"
        "engine = LlamaCppEngine.load(sys.argv[1], dtype='float16')\n"
        "seq = engine.create()\nengine.prefill(seq, list(range(60)))\n"
        "engine.drop(seq, 10, 20)\nengine.shift(seq, 20, -10)\n"
        "engine.prefill(seq, [1, 2])\nprint(engine.next_position(seq))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(converted("llama"))],
        capture_output=True,
        text=True,
        env={**__import__("os").environ, variable: "1"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "52\n"), done.stderr


@pytest.mark.parametrize("name", ["qwen3", "qwen3-yarn", "llama-mha-llama3"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_trap_2_a_shift_keeps_the_size_of_keys(engine: Make, name: str, dtype: str) -> None:
    """llama.cpp's own multiplies all keys of a YaRN model by its attention factor once more, moved or not."""
    mine = engine(name, dtype=dtype)
    seq = filled(mine)
    before = all_cells(mine, seq)
    mine.shift(seq, 30, 40)
    after = all_cells(mine, seq)
    assert all(torch.equal(new[:, :30], old[:, :30]) for new, old in zip(after.keys, before.keys, strict=True))
    norms = [torch.stack(cells.keys)[:, :, 30:].float().norm(dim=-1) for cells in (before, after)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-3 if dtype == "float16" else 1e-5, atol=0)


def test_trap_4_cells_read_right_after_a_shift_are_turned(engine: Make) -> None:
    mine = engine()
    seq = filled(mine)
    mine.shift(seq, 0, 40)
    read = all_cells(mine, seq)
    mine.score(seq, [1, 2])
    assert_same_cells(all_cells(mine, seq), read)
    fresh = mine.create()
    mine.prefill(fresh, IDS, range(40, 100))
    assert_close(read.keys[0], all_cells(mine, fresh).keys[0])


def test_trap_5_a_shift_leaves_the_cells_of_forks(engine: Make) -> None:
    mine = engine()
    seq = filled(mine)
    forks = [mine.fork(seq), mine.fork(seq, 40)]
    before = [all_cells(mine, fork) for fork in forks]
    mine.drop(seq, 10, 20)
    mine.shift(seq, 20, -10)
    for fork, cells in zip(forks, before, strict=True):
        assert_same_cells(all_cells(mine, fork), cells)


def test_trap_9_threads_that_do_not_take_the_lock_take_turns(engine: Make) -> None:
    mine = engine()
    expected = mine.next_logits(filled(mine))

    def work(number: int) -> float:
        seq = filled(mine)
        fork = mine.fork(seq)
        mine.drop(seq, 10, 20)
        mine.reencode(seq, range(20, 30))
        error = float((mine.next_logits(fork) - expected).abs().max())
        mine.free(seq)
        return error

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(24))) < 1e-4


def test_a_hole_is_continued_over_what_is_before_it(engine: Make) -> None:
    """llama.cpp appends right after the last position only; also after a hole at the very start."""
    mine = engine()
    for positions in ([*range(20), *range(33, 60)], [*range(40, 60)], [0, 50, 100]):
        seq = mine.create()
        mine.prefill(seq, IDS[: len(positions)], positions)
        assert mine.positions(seq) == positions
        before = all_cells(mine, seq)
        for position in positions:
            mine.reencode(seq, [position])
        after = all_cells(mine, seq)
        assert_close(flat(after.keys), flat(before.keys))
        assert_close(flat(after.values), flat(before.values))


def full(mine: LlamaCppEngine, free: int) -> int:
    """Return a sequence of 128 cells, with `free` free cells beside it."""
    seq = filled(mine, [(7 * i) % 400 for i in range(128)])
    others = library().llama_n_ctx(mine._context.pointer) - 128 - free
    mine._context.decode(mine._sequences._free_homes.pop(), [1] * others, 0, 0)
    return seq


def test_a_sequence_that_fills_the_context_is_still_edited(engine: Make) -> None:
    """No cell is free for a second copy of what is recomputed."""
    mine = engine("qwen3", context_length=128, cells=128)
    seq = full(mine, free=2)
    before = all_cells(mine, seq)
    mine.drop(seq, 10, 12)
    mine.reencode(seq, range(12, 128))
    fresh = mine.create()
    mine.prefill(fresh, mine.tokens(seq), mine.positions(seq))
    assert_close(flat(all_cells(mine, seq).values), flat(all_cells(mine, fresh).values))
    assert mine.deviation(seq, range(12, 128)).max() < 1e-4
    mine.shift(seq, 12, -2)
    mine.shift(seq, 10, 2)
    mine.write_cells(seq, before)
    assert_same_cells(all_cells(mine, seq), before)


def test_an_error_in_a_full_context_leaves_the_cells_as_they_were(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try, with the old cells kept outside, fails as well."""
    mine = engine("qwen3", context_length=128, cells=128)
    seq = full(mine, free=2)
    before = all_cells(mine, seq)
    real, calls = library().llama_decode, []

    def decode(context: object, batch: object) -> int:
        calls.append(batch)
        return -3 if len(calls) > 1 else int(real(context, batch))

    monkeypatch.setattr(library(), "llama_decode", decode)
    with pytest.raises(Exception, match="could not run the tokens"):
        mine.reencode(seq, range(12, 128))
    monkeypatch.undo()
    assert len(calls) == 2
    assert_same_cells(all_cells(mine, seq), before)
    mine.reencode(seq, range(12, 128))
    assert_close(flat(all_cells(mine, seq).values), flat(before.values))


def test_more_sequences_than_the_context_holds_are_kept_outside_of_it(engine: Make) -> None:
    mine = engine("qwen3", context_length=128, cells=128)
    sequences = [filled(mine, [(7 * i + n) % 400 for i in range(100)]) for n in range(6)]
    cells = [all_cells(mine, seq) for seq in sequences]
    logits = [mine.next_logits(seq) for seq in sequences]
    for seq, before, expected in reversed(list(zip(sequences, cells, logits, strict=True))):
        assert_same_cells(all_cells(mine, seq), before)
        mine.reencode(seq, [99])
        assert_close(mine.next_logits(seq), expected)
    many = [mine.fork(sequences[0], 5) for _ in range(50)]
    for fork in many:
        mine.prefill(fork, [1])
    assert_same_cells(mine.read_cells(sequences[5], range(100)), _first(cells[5], 99, mine, sequences[5]))
    for seq in (*sequences, *many):
        mine.free(seq)
    filled(mine, [1] * 128)


def _first(cells: Cells, count: int, engine: LlamaCppEngine, seq: int) -> Cells:
    """Return those cells with the last one as it is now: it was recomputed, at another place in the cache."""
    now = engine.read_cells(seq, cells.positions)
    assert all(torch.equal(new[:, :count], old[:, :count]) for new, old in zip(now.values, cells.values, strict=True))
    assert_close(flat(now.values), flat(cells.values))
    return now


def test_tokens_that_do_not_fit_are_refused_and_the_cells_stay(engine: Make) -> None:
    mine = engine("qwen3", context_length=256)
    seq = full(mine, free=20)
    before, expected = all_cells(mine, seq), mine.score(seq, [1, 2])
    for call in (
        lambda: mine.prefill(seq, [1] * 21),
        lambda: mine.prefill(seq, [1] * 21, range(150, 171)),
        lambda: mine.score(seq, [1] * 22),
        lambda: mine.write_cells(seq, _moved(before, 128)),
    ):
        with pytest.raises(ContextLengthError, match=r"give (the context|it) more cells"):
            call()
        assert_same_cells(all_cells(mine, seq), before)
    assert_close(mine.score(seq, [1, 2]), expected)
    mine.prefill(seq, [1] * 18)


def _moved(cells: Cells, delta: int) -> Cells:
    positions = tuple(position + delta for position in cells.positions)
    return Cells(positions, cells.token_ids, cells.keys, cells.values, cells.queries)


def test_an_interruption_while_the_library_runs_is_raised_and_rolled_back(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs within a pass only where the library asks it; there is no way to raise through the library."""
    mine = engine()
    seq = filled(mine)
    before, expected = all_cells(mine, seq), mine.next_logits(seq)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for call in (
        lambda: mine.prefill(seq, [1, 2, 3]),
        lambda: mine.score(seq, [1, 2, 3]),
        lambda: mine.reencode(seq, range(10, 60)),
        lambda: mine.deviation(seq, range(10, 60)),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(type(mine._watch), "__call__", interrupt)
            with pytest.raises(KeyboardInterrupt):
                call()
        assert_same_cells(all_cells(mine, seq), before)
    assert torch.equal(mine.next_logits(seq), expected)
    mine.prefill(seq, [1, 2, 3])
    assert mine.next_position(seq) == 63


def test_several_contexts_of_one_process_do_not_touch_each_other(engine: Make) -> None:
    one, other = engine("qwen3"), engine("llama")
    first, second = filled(one), filled(other)
    before = all_cells(one, first)
    other.drop(second, 0, 50)
    del other
    assert_same_cells(all_cells(one, first), before)
