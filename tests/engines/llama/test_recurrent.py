"""GGUF models with recurrent layers: exact retraction by going back to a state that llama.cpp kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kv_memory import Memory, engine_over
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.llama_cpp import LlamaCppEngine, LlamaCppRecurrentEngine
from kv_memory.engines.llama_cpp.context import Context
from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.parts import capabilities
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import ModelError, UnsupportedModelError
from kv_memory.testing.gguf_models import convert
from kv_memory.testing.models import CHAT_HYBRID, save_model
from tests.engines.llama import odd_models

IDS = [(7 * i) % 400 for i in range(120)]
Make = Callable[..., LlamaCppRecurrentEngine]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gated delta-net, three layers to one of attention, with positions of several axes."""
    folder = save_model("qwen3_5", tmp_path_factory.mktemp("qwen3_5"))
    return convert(folder, folder / "model.gguf")


@pytest.fixture
def make(path: Path) -> Make:
    return lambda **settings: LlamaCppRecurrentEngine.load(path, **{"dtype": "float32", **settings})


def filled(engine: LlamaCppRecurrentEngine, ids: list[int] = IDS, marks: list[int] | None = None) -> int:
    seq = engine.create()
    engine.mark(seq, marks or [])
    engine.prefill(seq, ids)
    return seq


def test_a_retraction_runs_again_from_the_mark_before_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = make()
    seq = filled(mine, marks=[30, 60, 90])
    assert mine.checkpoints.positions(seq) == [30, 60, 90]
    runs: list[int] = []
    real = Context.decode

    def counted(self: Context, home: int, ids: list[int], *rest: Any) -> torch.Tensor:
        runs.append(len(ids))
        return real(self, home, ids, *rest)

    monkeypatch.setattr(Context, "decode", counted)
    done = Recompute().erase(mine, seq, [(65, 70)])
    mine.next_logits(seq)
    assert sum(runs) == done.recomputed == 120 - 60 - 5
    monkeypatch.undo()
    fresh = filled(mine, [*IDS[:65], *IDS[70:]])
    assert torch.equal(mine.next_logits(seq), mine.next_logits(fresh))


def test_without_checkpoints_it_starts_again_and_is_as_exact(make: Make) -> None:
    mine = make(checkpoints=CheckpointSettings(0))
    seq = filled(mine, marks=[30, 60, 90])
    assert mine.replayed_from(seq, 65) == 0
    Recompute().erase(mine, seq, [(65, 70)])
    assert torch.equal(mine.next_logits(seq), mine.next_logits(filled(mine, [*IDS[:65], *IDS[70:]])))


def test_sequences_take_turns_in_the_context(make: Make) -> None:
    """Forks, also from the middle, and sequences that are deleted while they are there."""
    mine = make()
    seq = filled(mine, marks=[50])
    expected = mine.next_logits(seq)
    part, fork = mine.fork(seq, 60), mine.fork(seq)
    mine.prefill(part, [1, 2, 3])
    other = filled(mine, IDS[::-1])
    mine.prefill(fork, [5])
    torch.testing.assert_close(mine.next_logits(fork), mine.next_logits(filled(mine, [*IDS, 5])), rtol=0, atol=1e-5)
    mine.free(fork)
    assert torch.equal(mine.next_logits(filled(mine, [*IDS[:60], 1, 2, 3])), mine.next_logits(part))
    mine.free(other)
    mine.truncate(seq, 119)
    mine.prefill(seq, IDS[-1:])
    torch.testing.assert_close(mine.next_logits(seq), expected, rtol=0, atol=1e-5)


def test_an_error_in_a_pass_leaves_the_cells_as_they_were(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = make()
    seq = filled(mine, marks=[50])
    expected = mine.next_logits(seq)
    real = Context.decode

    def fails(self: Context, home: int, ids: list[int], *rest: Any) -> torch.Tensor:
        real(self, home, ids, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(Context, "decode", fails)
    with pytest.raises(KeyboardInterrupt):
        mine.prefill(seq, [1, 2, 3])
    monkeypatch.undo()
    assert mine.tokens(seq) == IDS
    torch.testing.assert_close(mine.next_logits(seq), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [odd_models.recurrent, odd_models.granite], ids=["no attention", "Mamba 2"])
def test_other_layers_go_back_too(write: Callable[[Path], Path], tmp_path: Path) -> None:
    mine = LlamaCppRecurrentEngine.load(write(tmp_path / "m.gguf"), dtype="float32")
    ids = [i % 60 for i in range(100)]
    seq = filled(mine, ids, marks=[30, 60])
    Recompute().erase(mine, seq, [(65, 70)])
    fresh = filled(mine, [*ids[:65], *ids[70:]])
    assert mine.checkpoints.positions(seq) == [30, 60]
    seen = mine.next_logits(filled(mine, ids))
    assert float((mine.next_logits(fresh) - seen).abs().max()) > 1e-3, "the text leaves no trace"
    torch.testing.assert_close(mine.next_logits(seq), mine.next_logits(fresh), rtol=0, atol=1e-5)


def test_a_memory_opens_it_and_refuses_what_it_lacks_by_name(tmp_path: Path) -> None:
    path = convert(save_model(CHAT_HYBRID, tmp_path), tmp_path / "model.gguf")
    engine = Memory(path, dtype="float32", checkpoint_mb=8).engine
    assert isinstance(engine, LlamaCppRecurrentEngine)
    assert capabilities(engine) == {"score"}
    assert engine.checkpoints.budget == 8e6
    with pytest.raises(UnsupportedModelError, match=r"qwen35 model has recurrent layers.*open it with Memory"):
        LlamaCppEngine.load(path)


def test_checkpoints_that_cannot_be_are_refused(path: Path, make: Make) -> None:
    with pytest.raises(ModelError, match="kept on the CPU, not on cuda"):
        make(checkpoints=CheckpointSettings(8, "cuda"))
    with pytest.raises(ModelError, match=r"One checkpoint of .* raise checkpoint_mb"):
        make(checkpoints=CheckpointSettings(1e-4))


def test_a_model_of_which_a_state_is_not_kept_whole_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Context.read_states

    def part(self: Context, home: int) -> NDArray[np.uint8]:
        data = real(self, home)
        data[64:256] = 0  # numbers of the first layer
        return data

    monkeypatch.setattr(Context, "read_states", part)
    with pytest.raises(UnsupportedModelError, match="qwen35 model does not go on as it should from a state"):
        make()


def test_a_model_that_rounds_by_the_length_of_a_pass_is_none_of_them(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with quantised weights does: by up to 4 % of the largest logit, seen with Q4_K_M."""
    real = Context.decode

    def rounding(self: Context, home: int, ids: list[int], *rest: Any) -> torch.Tensor:
        return real(self, home, ids, *rest) * (1 + 0.04 * len(ids))

    monkeypatch.setattr(Context, "decode", rounding)
    make()


def test_a_model_without_recurrent_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="qwen2vl model has no recurrent layers; open it with Memory"):
        LlamaCppRecurrentEngine.load(odd_models.of_several_axes(tmp_path / "m.gguf"))


def test_a_loaded_llama_is_taken_over(path: Path, make: Make) -> None:
    loaded = library().Llama(str(path), n_ctx=256, type_k=0, type_v=0, verbose=False)
    mine = engine_over(loaded)
    assert isinstance(mine, LlamaCppRecurrentEngine)
    assert (mine.max_positions, mine.kv_dtype) == (loaded.n_ctx(), "float32")
    other = make()
    assert torch.equal(mine.next_logits(filled(mine)), other.next_logits(filled(other)))


def test_windows_beside_recurrent_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="lfm2 model has sliding windows beside recurrent layers"):
        LlamaCppRecurrentEngine.load(odd_models.hybrid(tmp_path / "m.gguf", window=16))


def test_the_context_has_room_for_one_state_alone(make: Make) -> None:
    assert library().llama_n_seq_max(make()._cells._context.pointer) == 1


def test_threads_that_do_not_take_the_lock_take_turns(make: Make) -> None:
    mine = make()
    expected = mine.next_logits(filled(mine))

    def work(number: int) -> float:
        seq = filled(mine, IDS[:60])
        fork = mine.fork(seq)
        mine.prefill(fork, IDS[60:])
        mine.truncate(seq, 30)
        mine.prefill(seq, [number])
        error = float((mine.next_logits(fork) - expected).abs().max())
        mine.free(seq)
        return error

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(24))) < 1e-4
