"""What users run: K and V in float16 with flash attention, and weights in Q8_0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.parts import capabilities
from kv_memory.erasers import ERASERS, get_eraser
from kv_memory.gguf import export_model
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.reference import all_cells, assert_same_cells, without
from kv_memory.trained.files import open_eraser

IDS = [(7 * i) % 400 for i in range(60)]
SPAN = (20, 33)
WEIGHTS = ["f32", "q8_0"]
FLOOR = 0.05
"""Logits of these models reach 10."""


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, converted: Callable[[str], Path]) -> Path:
    path = converted(request.param).parent
    save_lora(AutoModelForCausalLM.from_pretrained(path), path / "eraser")
    return path


@pytest.fixture(params=WEIGHTS)
def weights(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mine(folder: Path, weights: str) -> LlamaCppEngine:
    path = folder / f"{weights}.gguf"
    if not path.exists():
        export_model(folder, path, weights)  # type: ignore[arg-type]
    engine = LlamaCppEngine.load(path)
    open_eraser(folder / "eraser").load(engine)
    return engine


def test_it_can_do_all_that_float32_can(mine: LlamaCppEngine) -> None:
    assert mine.kv_dtype == "float16"
    assert capabilities(mine) >= {"shift", "influence", "deviation"}


@pytest.mark.parametrize("eraser", ERASERS)
def test_every_eraser_runs_and_what_reads_all_again_is_near_never_saw(
    mine: LlamaCppEngine, weights: str, eraser: str, measured: Callable[[str], None]
) -> None:
    seq = mine.create()
    mine.prefill(seq, IDS)
    before = mine.read_cells(seq, range(20))
    budgeted = eraser in ("repair", "shift+repair", "influence", "shift+influence")
    get_eraser(f"{eraser} 100%" if budgeted else eraser).erase(mine, seq, [SPAN])
    assert_same_cells(mine.read_cells(seq, range(20)), before)
    if budgeted or eraser == "recompute":
        fresh = mine.create()
        mine.prefill(fresh, without(IDS, SPAN), mine.positions(seq))
        largest = float((mine.next_logits(seq) - mine.next_logits(fresh)).abs().max())
        measured(f"llama.cpp, float16 K and V, {weights} weights: {eraser} differs from never-saw by {largest:.0e}")
        assert largest < FLOOR


def test_undo_is_bit_identical(mine: LlamaCppEngine) -> None:
    seq = mine.create()
    mine.prefill(seq, IDS)
    before = all_cells(mine, seq)
    for eraser in ("drop", "steer"):
        undo = get_eraser(eraser).erase_undoably(mine, seq, [SPAN]).undo
        assert undo is not None
        mine.write_cells(seq, undo)
        assert_same_cells(all_cells(mine, seq), before)


def test_what_is_kept_outside_is_what_the_context_holds(mine: LlamaCppEngine) -> None:
    """After a history of edits: the probe layer's keys, which `influence` uses, are the cached ones."""
    seq = mine.create()
    mine.prefill(seq, IDS)
    mine.drop(seq, *SPAN)
    mine.reencode(seq, [35, 36, 50])
    mine.drop(seq, 36, 40)
    mine.shift(seq, 40, -4)
    mine.prefill(seq, [1, 2, 3])
    store, cells = mine._sequences.get(seq).store, all_cells(mine, seq)
    layer = mine.probe_layers[0]
    torch.testing.assert_close(store.keys[0][0][:, store.order()[1]], cells.keys[layer], rtol=2e-3, atol=2e-3)


def test_a_stopped_pass_goes_no_further(mine: LlamaCppEngine) -> None:
    """`deviation` at the second layer writes the first two layers' cells and no others."""
    seq = mine.create()
    mine.prefill(seq, IDS)
    mine.drop(seq, *SPAN)
    seen: list[bytes] = []
    real = type(mine._watch).__call__

    def watch(self: object, tensor: int, asks: bool) -> bool:
        found = real(mine._watch, tensor, asks)
        if not asks:
            seen.append(b"stopped" if not found else b"went on")
        return found

    type(mine._watch).__call__ = watch  # type: ignore[method-assign]
    try:
        mine.deviation(seq, range(33, 60), layer=1)
    finally:
        type(mine._watch).__call__ = real  # type: ignore[method-assign]
    assert seen == [b"stopped"]
