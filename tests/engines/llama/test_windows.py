"""Layers with a sliding window in llama.cpp, which keeps their cells apart and takes those out of sight for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory.engines.base import Cells
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.llama_cpp.context import Context
from kv_memory.engines.llama_cpp.library import library
from kv_memory.testing.gguf_models import convert
from kv_memory.testing.models import CONTEXT, WINDOW, save_model
from kv_memory.testing.reference import all_cells, assert_close, assert_close_cells, assert_same_cells, plain_logits

Make = Callable[..., LlamaCppEngine]
Use = Callable[[LlamaCppEngine, int, Cells], None]
IDS = [(7 * i) % 400 for i in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with a window of 16 tokens and two without, attention sinks, YaRN."""
    path = save_model("gpt-oss", tmp_path_factory.mktemp("gpt-oss"))
    convert(path, path / "model.gguf")
    return path


@pytest.fixture
def make(folder: Path) -> Make:
    return lambda **settings: LlamaCppEngine.load(folder / "model.gguf", **{"dtype": "float32", **settings})


def filled(engine: LlamaCppEngine, ids: list[int] = IDS, positions: list[int] | None = None) -> int:
    seq = engine.create()
    engine.prefill(seq, ids, positions)
    return seq


def test_all_cells_of_a_long_sequence_are_there(make: Make) -> None:
    """The library's own state of a sequence holds the last window alone."""
    mine = make()
    cells = all_cells(mine, filled(mine))
    assert cells.positions == tuple(range(120))
    assert {rows.shape[1] for rows in (*cells.keys, *cells.values)} == {120}
    assert all(bool((rows != 0).any(-1).all()) for rows in cells.values)


def put_back(mine: LlamaCppEngine, seq: int, before: Cells) -> None:
    for start, end in ((20, 25), (40, 45)):
        mine.drop(seq, start, end)
    mine.write_cells(seq, before)


def measure_more_than_fits_the_gap(mine: LlamaCppEngine, seq: int, before: Cells) -> None:
    mine.drop(seq, 20, 25)
    mine.deviation(seq, range(90, 110))


USES = [put_back, measure_more_than_fits_the_gap]


@pytest.mark.parametrize("use", USES)
def test_trap_6_cells_out_of_sight_are_not_used_for_others(make: Make, use: Use) -> None:
    """The library looks for room from the first gap on, and takes what is out of sight before it goes on."""
    mine = make()
    seq = filled(mine)
    before = all_cells(mine, seq)
    part = mine.read_cells(seq, [*range(20, 25), *range(40, 45)])
    use(mine, seq, part)
    assert_same_cells(mine.read_cells(seq, mine.positions(seq)), _of(before, mine.positions(seq)))


@pytest.mark.parametrize("use", USES)
def test_without_our_guard_they_are(make: Make, monkeypatch: pytest.MonkeyPatch, use: Use) -> None:
    @contextmanager
    def unguarded(self: Context) -> Iterator[None]:
        yield

    mine = make()
    seq = filled(mine)
    part = mine.read_cells(seq, [*range(20, 25), *range(40, 45)])
    monkeypatch.setattr(Context, "_guarded", unguarded)
    with pytest.raises(Exception, match="lack some cells"):
        use(mine, seq, part)
        all_cells(mine, seq)


def _of(cells: Cells, positions: list[int]) -> Cells:
    """Return those of the cells at these positions."""
    at = [cells.positions.index(position) for position in positions]
    parts = (cells.keys, cells.values, cells.queries)
    rows = [tuple(layer[:, at] for layer in part) for part in parts]
    return Cells(tuple(positions), tuple(cells.token_ids[i] for i in at), *rows)


@pytest.mark.parametrize("hole", [1, 5, WINDOW - 1, WINDOW, WINDOW + 1, 40])
@pytest.mark.parametrize("after", [1, WINDOW - 1, WINDOW, 50])
def test_tokens_after_a_hole_see_what_their_window_holds(make: Make, folder: Path, hole: int, after: int) -> None:
    """The library continues a sequence right after its last cell alone; shorter holes than a window and longer ones."""
    mine = make()
    positions = [*range(30), *range(30 + hole, 30 + hole + after)]
    ids = IDS[: len(positions)]
    seq = filled(mine, ids, positions)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert_close(mine.next_logits(seq), plain_logits(model, ids, positions)[-1])
    before = all_cells(mine, seq)
    mine.reencode(seq, positions)
    assert_close_cells(all_cells(mine, seq), before)
    mine.drop(seq, positions[-1], positions[-1] + 1)
    mine.drop(seq, 0, 1)
    fresh = filled(mine, ids[1:-1], positions[1:-1])
    mine.reencode(seq, positions[1:-1])
    assert_close_cells(all_cells(mine, seq), all_cells(mine, fresh))


def test_a_sequence_is_kept_outside_of_the_context_whole(make: Make) -> None:
    mine = make()
    seq, fork = (one := filled(mine)), mine.fork(one)
    before, expected = all_cells(mine, seq), mine.next_logits(seq)
    mine.drop(fork, 20, 50)
    other = filled(mine, IDS[::-1])
    mine.drop(seq, 119, 120)
    mine.prefill(seq, IDS[-1:])
    assert_close_cells(all_cells(mine, seq), before)
    assert_close(mine.next_logits(seq), expected)
    assert mine.positions(fork) == [*range(20), *range(50, 120)]
    assert all_cells(mine, fork).positions == tuple(mine.positions(fork))
    assert len(all_cells(mine, other).positions) == 120


def test_a_full_context_is_still_edited(make: Make) -> None:
    mine = make(context_length=128, cells=128)
    ids = [(7 * i) % 400 for i in range(128)]
    seq = filled(mine, ids)
    others = library().llama_n_ctx(mine._context.pointer) - 128 - 2
    mine._context.decode(mine._sequences._free_homes.pop(), [1] * others, 0, 0)
    mine.drop(seq, 10, 12)
    mine.reencode(seq, range(12, 128))
    fresh = filled(mine, mine.tokens(seq), mine.positions(seq))
    assert_close_cells(all_cells(mine, seq), all_cells(mine, fresh))


def test_each_kind_of_layer_turns_by_its_own_frequencies(tmp_path: Path) -> None:
    """Gemma 3: base 10,000 in layers with a window; a million, and stretched eight times, in the others."""
    path = save_model("gemma3", tmp_path)
    mine = LlamaCppEngine.load(convert(path, path / "model.gguf"), dtype="float32")
    half = torch.arange(8, dtype=torch.float64) / 8
    for index, layer in enumerate(mine._layers):
        assert layer is not None
        assert layer.rotation is not None
        expected = 1e6**-half / 8 if index % 2 else 1e4**-half
        torch.testing.assert_close(layer.rotation.frequencies, expected, rtol=1e-3, atol=1e-6)
        assert layer.windowed == (index % 2 == 0)


def test_influence_asks_a_layer_that_sees_all(make: Make) -> None:
    mine = make(context_length=CONTEXT)
    assert [layer.windowed for layer in mine._layers if layer] == [True, False, True, False]
    assert mine.probe_layers == (1,)
    every = make(probe_layers="all")
    assert every.probe_layers == (0, 1, 2, 3)
    _, scores = every.influence(filled(every), [(10, 20)], layers=(0,))
    assert bool((scores[0, WINDOW:] == 0).all())
    assert bool((scores[0, : WINDOW - 1] > 0).all())
