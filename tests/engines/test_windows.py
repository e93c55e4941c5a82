"""Layers that do not see the whole context: what they see, what moves, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig, PreTrainedConfig

from kv_memory import Memory
from kv_memory.engines.cells import CellStore
from kv_memory.engines.reach import Reach
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.probe import reaches
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift import Shift
from kv_memory.errors import UnsupportedModelError
from kv_memory.gguf.base_model import read_config
from kv_memory.policy.choose import choose
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.testing.models import WINDOW, WINDOWS, tokenizer
from kv_memory.testing.reference import assert_close, plain_logits, without
from kv_memory.training.run import check_trainable

IDS = torch.randint(0, 250, (120,), generator=torch.Generator().manual_seed(1)).tolist()
CHUNK = 50


def engine_of(name: str, **settings: Any) -> TransformersEngine:
    torch.manual_seed(0)
    return TransformersEngine(AutoModelForCausalLM.from_config(WINDOWS[name]()), tokenizer(), **settings)


def chunked() -> TransformersEngine:
    torch.manual_seed(0)
    config = WINDOWS["llama4"]()
    config.attention_chunk_size = CHUNK
    return TransformersEngine(AutoModelForCausalLM.from_config(config), tiny_tokenizer())


@pytest.mark.parametrize(
    ("reach", "seen"),
    [(Reach(), [0, 1, 2, 3, 7]), (Reach(window=5), [3, 7]), (Reach(window=4), [7]), (Reach(chunk=4), [7])],
    ids=["all", "window", "a window that ends beside a cell", "chunk"],
)
def test_what_a_token_sees(reach: Reach, seen: list[int]) -> None:
    held = torch.tensor([0, 1, 2, 3, 7, 8, torch.iinfo(torch.int64).max])
    hidden = reach.hides(torch.tensor([7]), held)[0]
    assert held[~hidden].tolist() == seen


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "mistral-window"])
def test_what_is_beyond_a_window_of_all_layers_does_not_matter(name: str) -> None:
    """In layers with windows alone, text that no layer reaches changes nothing; with a layer that sees all, it does."""
    engine = engine_of(name)
    last = []
    for first in (IDS[:20], [token + 1 for token in IDS[:20]]):
        seq = engine.create()
        engine.prefill(seq, [*first, *IDS[20:]])
        last.append(engine.next_logits(seq))
    far = all(not layer.reach.whole for layer in engine._layout.layers)
    assert bool((last[0] - last[1]).abs().max() < 1e-6) is far


def test_the_default_probe_layer_sees_the_whole_context() -> None:
    engine = engine_of("gemma3")
    assert all(engine._layout.layers[layer].reach.whole for layer in engine.probe_layers)


def test_a_probe_layer_without_keys_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 5 keeps no keys of its own"):
        engine_of("gemma4", probe_layers=(5,))
    assert engine_of("gemma4", probe_layers="all").probe_layers == (0, 1, 2, 3)


def test_a_layer_that_shares_keeps_nothing() -> None:
    engine = engine_of("gemma4")
    store = CellStore(engine._layout, 256)
    store.reserve(10)
    assert [rows.numel() > 0 for rows in store.keys] == [True] * 4 + [False] * 2


def test_queries_are_counted_by_the_width_of_their_layer() -> None:
    engine = engine_of("gemma4", probe_layers="all")
    shapes = engine._layout.layers
    kept = sum(shape.heads * shape.query_dim for shape in shapes[:4]) / 4
    assert engine.probe_memory == kept / sum(shape.kv_heads * (shape.key_dim + shape.value_dim) for shape in shapes)


def test_sinks_take_their_share_of_attention() -> None:
    engine = engine_of("gpt-oss")
    seq = engine.create()
    engine.prefill(seq, IDS)
    other = engine.fork(seq)
    before = engine.influence(seq, [(20, 40)])[1]
    for shape in engine._layout.layers:
        assert shape.sinks is not None
        shape.sinks.data += 3.0
    assert (engine.influence(other, [(20, 40)])[1] < before).all()


def test_a_gap_is_closed_where_no_text_changes_its_chunk() -> None:
    engine = chunked()
    seq = engine.create()
    engine.prefill(seq, IDS[:CHUNK])
    done = Shift().erase(engine, seq, [(10, 20)])
    assert (done.moves, done.note) == (((20, -10),), "")


def test_a_gap_stays_where_text_would_change_its_chunk() -> None:
    engine = chunked()
    seq = engine.create()
    engine.prefill(seq, IDS)
    done = Shift().erase(engine, seq, [(10, 20)])
    assert done.moves == ()
    assert f"chunks of {CHUNK}" in done.note
    assert engine.positions(seq) == without(range(120), (10, 20))


def test_of_several_gaps_those_are_closed_that_can_be() -> None:
    engine = chunked()
    seq = engine.create()
    engine.prefill(seq, IDS[: CHUNK - 5], range(60, 60 + CHUNK - 5))  # from the middle of a chunk to that of the next
    done = Shift().erase(engine, seq, [(70, 75), (102, 104)])
    assert done.moves == ((104, -2),)
    assert done.note


def test_a_retraction_says_that_a_gap_stays_and_healing_closes_it() -> None:
    memory = Memory(chunked(), heal="never")
    session = memory.session("a")
    session.prefill(
        [
            {"role": "user", "content": "ab"},
            {"role": "tool", "content": "abcdef", "tool_call_id": "c1"},
            {"role": "user", "content": "cde" * 20},
        ]
    )
    report = session.retract("c1", eraser="shift")
    assert f"chunks of {CHUNK}" in report.explanation
    session.heal()
    branch = session.branches.latest
    assert branch is not None
    positions = memory.engine.positions(branch.seq)
    assert positions == list(range(len(positions)))


def test_recompute_across_a_chunk_equals_a_fresh_run() -> None:
    engine = chunked()
    seq = engine.create()
    engine.prefill(seq, IDS)
    Recompute().erase(engine, seq, [(10, 20)])
    assert_close(engine.next_logits(seq), plain_logits(engine._forward.model, without(IDS, (10, 20)))[-1])


@pytest.mark.parametrize(("name", "eraser"), [("glm4-moe-lite", "recompute"), ("gemma3", "shift+influence")])
def test_without_a_calibration_nothing_approximate_is_chosen_for_latent_attention(name: str, eraser: str) -> None:
    choice = choose(engine_of(name), 20, 1000)
    assert choice.eraser.name == eraser
    assert ("latent attention" in choice.explain()) is (eraser == "recompute")
    assert ("shift+influence: passed over, it is not exact" in choice.explain()) is (eraser == "recompute")


@pytest.mark.parametrize("name", ["gemma3", "glm4-moe-lite"])
def test_erasers_are_not_trained_for_such_models(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="full attention in every layer, which M is not"):
        check_trainable(WINDOWS[name](), "M")


def test_a_window_is_not_lost_in_a_gguf_file(tmp_path: Any) -> None:
    WINDOWS["mistral-window"]().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="sliding window"):
        read_config(tmp_path)


def test_a_window_that_the_configuration_does_not_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = WINDOWS["gemma3"]()
    model = AutoModelForCausalLM.from_config(config)
    config.layer_types = ["full_attention"] * 4
    with pytest.raises((UnsupportedModelError, KeyError)):
        TransformersEngine(model, tokenizer())


LISTED: dict[str, Callable[[], PreTrainedConfig]] = {
    "window": WINDOWS["gemma3"],
    "chunk": lambda: Llama4TextConfig(num_hidden_layers=4, attention_chunk_size=64),
}


def test_reaches_are_read_off_the_configuration() -> None:
    assert reaches(LISTED["window"]()) == (Reach(window=WINDOW), Reach()) * 2
    assert {reach.chunk for reach in reaches(LISTED["chunk"]())} == {64, None}


def test_cells_of_another_model_are_refused() -> None:
    engine, other = engine_of("gemma4"), engine_of("gemma3")
    seq, there = engine.create(), other.create()
    engine.prefill(seq, IDS[:10])
    other.prefill(there, IDS[:10])
    with pytest.raises(ValueError, match="not this model's"):
        other.write_cells(there, engine.read_cells(seq, range(5)))
