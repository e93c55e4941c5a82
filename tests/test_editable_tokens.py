"""Conversations with a model whose layers with a window give back what no later token sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory import Memory, ModelError, UnsupportedOperationError
from kv_memory.engines.registry import open_engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.gguf import export_model
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.testing.models import HYBRIDS, WINDOWS, save_model
from kv_memory.testing.reference import assert_close, plain_logits

EDITABLE = 60
LONG = "the parcel left the depot on tuesday and is on its way to the north " * 2
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "where is it"},
    {"role": "tool", "content": "SECRET42 early", "tool_call_id": "c1"},
    {"role": "user", "content": LONG},
    {"role": "tool", "content": "SECRET43 late", "tool_call_id": "c2"},
    {"role": "user", "content": "and now"},
]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = WINDOWS["gemma3"]()
    config.max_position_embeddings = 1024
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def memory(model: Any) -> Memory:
    return Memory(TransformersEngine(model, tiny_tokenizer(), editable_tokens=EDITABLE), heal="never")


def assert_fresh(memory: Memory, model: Any, *, lacks: str) -> None:
    branch = memory.session("s").branches.latest
    assert branch is not None
    tokens = memory.engine.tokens(branch.seq)
    assert lacks not in memory.engine.tokenizer.decode(tokens)
    assert isinstance(memory.engine, TransformersEngine)
    assert_close(memory.engine.next_logits(branch.seq), plain_logits(model, tokens)[-1])


def test_late_text_is_erased_in_place(memory: Memory) -> None:
    session = memory.session("s")
    session.prefill(HISTORY)
    report = session.retract("c2", eraser="shift")
    assert (report.eraser, report.tokens_recomputed) == ("shift", 0)


@pytest.mark.parametrize("reason", ["", "security: leak"])
def test_early_text_is_erased_by_prefilling_again(memory: Memory, model: Any, reason: str) -> None:
    session = memory.session("s")
    session.prefill(HISTORY)
    branch = session.branches.latest
    assert branch is not None
    said = session.explain("c1", reason=reason)
    report = session.retract("c1", reason=reason)
    assert (report.eraser, report.status) == ("recompute", "exact")
    assert report.tokens_recomputed == branch.cells
    assert ("gave back" in said) is (reason == "")
    assert "shift: passed over, it is not exact" in said or "shift+influence: passed over, it is not exact" in said
    assert_fresh(memory, model, lacks="SECRET42")


def test_an_eraser_that_is_named_for_early_text_is_refused(memory: Memory) -> None:
    session = memory.session("s")
    session.prefill(HISTORY)
    branch = session.branches.latest
    assert branch is not None
    before = memory.engine.tokens(branch.seq)
    with pytest.raises(UnsupportedOperationError, match=r"'shift' cannot run here: .* \(editable_tokens\); use 'reco"):
        session.retract("c1", eraser="shift")
    assert memory.engine.tokens(branch.seq) == before
    assert session.spans()[1].status == "live"


def test_the_memorys_own_eraser_gives_way_to_an_exact_one(model: Any) -> None:
    engine = TransformersEngine(model, tiny_tokenizer(), editable_tokens=EDITABLE)
    memory = Memory(engine, eraser="shift", heal="never")
    session = memory.session("s")
    session.prefill(HISTORY)
    assert session.retract("c1").eraser == "recompute"
    assert session.retract("c2").eraser == "shift"


def test_a_message_that_vanishes_from_an_early_turn(memory: Memory, model: Any) -> None:
    session = memory.session("s")
    session.prefill(HISTORY)
    session.chat([HISTORY[0], *HISTORY[2:]], max_tokens=3, history_eraser="shift")
    assert_fresh(memory, model, lacks="SECRET42")


def test_undo_of_an_early_retraction(memory: Memory, model: Any) -> None:
    session = memory.session("s")
    session.prefill(HISTORY)
    report = session.retract("c1")
    session.undo(report)
    session.prefill(HISTORY)
    assert_fresh(memory, model, lacks="nothing of the kind")


def test_it_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    plain = save_model("qwen3", tmp_path / "plain")
    hybrid = save_model(next(iter(HYBRIDS)), tmp_path / "hybrid")
    converted = tmp_path / "model.gguf"
    export_model(plain, converted, "f32")
    for path, said in (
        (plain, "for models with layers that have a sliding window"),
        (hybrid, "has recurrent layers"),
        (converted, "keeps all cells of its windows"),
    ):
        with pytest.raises(ModelError, match=said):
            Memory(path, editable_tokens=5)
    with pytest.raises(ModelError, match="A ready engine has a editable_tokens already"):
        Memory(open_engine(plain), editable_tokens=5)
