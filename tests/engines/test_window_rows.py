"""Layers with a window give back what no later token sees: answers stay the same, and what needs it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from kv_memory.engines.parts import lacks
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.errors import ModelError, UnsupportedOperationError
from kv_memory.testing.models import CONFIGS, WINDOW, WINDOWS, tokenizer
from kv_memory.testing.reference import all_cells, assert_close, assert_same_cells, plain_logits, without

EDITABLE = 16
IDS = torch.randint(0, 250, (150,), generator=torch.Generator().manual_seed(1)).tolist()


def engine_of(name: str, editable: int | None = EDITABLE, **settings: Any) -> TransformersEngine:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config((CONFIGS | WINDOWS)[name]())
    return TransformersEngine(model, tokenizer(), editable_tokens=editable, **settings)


ENGINES = {name: (engine_of(name), engine_of(name, None)) for name in ("gemma3", "gemma4", "gpt-oss", "llama4")}


def read(engine: TransformersEngine, ids: list[int], step: int = 30) -> int:
    """Read the tokens in several calls, after each of which rows are given back."""
    seq = engine.create()
    for start in range(0, len(ids), step):
        engine.prefill(seq, ids[start : start + step])
    return seq


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "gpt-oss"])
def test_answers_are_the_same_and_less_is_kept(name: str) -> None:
    engine, other = ENGINES[name]
    seq, expected = read(engine, IDS), read(other, IDS)
    assert_close(engine.next_logits(seq), other.next_logits(expected))
    store, whole = engine._sequences[seq].store, other._sequences[expected].store
    for layer, shape in enumerate(engine._layout.layers):
        if shape.kv_heads and not shape.reach.whole:
            assert store.keys[layer].shape[2] <= 128 < whole.keys[layer].shape[2]
            held = store.held(layer)
            assert sorted(held[held < 1000].tolist()) == list(range(150 - WINDOW - EDITABLE, 150))
        else:
            assert torch.equal(
                store.keys[layer][:, :, :150].isfinite(), torch.ones_like(store.keys[layer][:, :, :150]) > 0
            )


def test_what_is_given_back_is_wiped() -> None:
    engine = ENGINES["gemma3"][0]
    seq = read(engine, IDS)
    store = engine._sequences[seq].store
    free = store.held(0) > 1000
    assert not store.keys[0][:, :, : len(free)][:, :, free].any()


def test_text_among_the_last_tokens_is_erased_in_place() -> None:
    engine, other = ENGINES["gemma3"]
    seq, expected = read(engine, IDS), read(other, IDS)
    start = engine.editable_from(seq)
    assert start == 150 - EDITABLE
    for each, where in ((engine, seq), (other, expected)):
        assert ShiftInfluence(4).erase(each, where, [(start, start + 6)]).recomputed == 4
        each.prefill(where, IDS[:40])
    assert_close(engine.next_logits(seq), other.next_logits(expected))


def test_earlier_text_is_erased_by_reading_again_alone() -> None:
    engine, _ = ENGINES["gemma3"]
    seq = read(engine, IDS)
    before = engine.positions(seq), engine.tokens(seq), engine.next_logits(seq)
    for edit in (
        lambda: engine.reencode(seq, [100]),
        lambda: engine.deviation(seq, [100, 149]),
        lambda: engine.shift(seq, 100, 3),
    ):
        with pytest.raises(UnsupportedOperationError, match="Tokens before position 134 cannot be edited in place"):
            edit()
    assert (engine.positions(seq), engine.tokens(seq)) == before[:2]
    assert torch.equal(engine.next_logits(seq), before[2])
    assert engine.replayed_from(seq, 100) == 0
    assert engine.replayed_from(seq, 140) == 140
    Recompute().erase(engine, seq, [(20, 30)])
    assert_close(engine.next_logits(seq), plain_logits(engine._forward.model, without(IDS, (20, 30)))[-1])


@pytest.mark.parametrize("end", [60, 140])
def test_a_fork_of_an_earlier_state_goes_on_as_a_fresh_run(end: int) -> None:
    engine, _ = ENGINES["gemma3"]
    seq = read(engine, IDS)
    fork = engine.fork(seq, end)
    engine.prefill(fork, IDS[:20])
    assert_close(engine.next_logits(fork), plain_logits(engine._forward.model, [*IDS[:end], *IDS[:20]])[-1])
    assert engine.positions(seq) == list(range(150))


def test_scores_give_nothing_back() -> None:
    engine, _ = ENGINES["gemma3"]
    seq = read(engine, IDS[:60])
    before = engine.editable_from(seq)
    engine.score(seq, IDS[:80])
    assert engine.editable_from(seq) == before
    engine.truncate(seq, 45)
    engine.prefill(seq, IDS[45:70])
    assert_close(engine.next_logits(seq), plain_logits(engine._forward.model, IDS[:70])[-1])


def test_cells_that_are_put_back_later_are_those_of_the_other_layers_alone() -> None:
    engine, other = ENGINES["gemma3"]
    seq, expected = read(engine, IDS[:80]), read(other, IDS[:80])
    for each, where in ((engine, seq), (other, expected)):
        undo = each.read_cells(where, range(70, 74))
        each.drop(where, 70, 74)
        each.prefill(where, IDS[:60])
        each.write_cells(where, undo)
    assert_close(engine.next_logits(seq), other.next_logits(expected))


def test_no_steering_states() -> None:
    assert "no steering state is kept" in lacks(engine_of("gemma3"), "adapters")


@pytest.mark.parametrize(("name", "editable"), [("qwen3", 16), ("gemma3", -1)])
def test_refused(name: str, editable: int) -> None:
    with pytest.raises(ModelError, match="editable_tokens is a number of tokens, 0 or more, for models with layers"):
        engine_of(name, editable)


def test_a_layer_with_a_window_is_no_probe_layer_then() -> None:
    assert engine_of("gemma3", probe_layers="all").probe_layers == (1, 3)
    with pytest.raises(ValueError, match="layer 0 keeps no keys of its own, or not of all tokens"):
        engine_of("gemma3", probe_layers=(0,))


KINDS = ["prefill", "truncate", "drop", "shift", "fork", "reencode", "score"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(steps=STEPS, name=st.sampled_from(["gemma3", "gpt-oss"]))
def test_random_histories_answer_as_without_giving_back(steps: list[tuple[str, int]], name: str) -> None:
    engine, other = ENGINES[name]
    mine, expected = read(engine, IDS[:70]), read(other, IDS[:70])
    for step, number in steps:
        first, positions = engine.editable_from(mine), engine.positions(mine)
        recent = [position for position in positions if position >= first]
        cut = 1 + positions[number * (len(positions) - 1) // 100]
        if step in ("truncate", "fork") and 0 < cut < first:  # it is read again there, without what was dropped
            count = sum(at < cut for at in positions)
            expected = other.create()
            other.prefill(expected, engine.tokens(mine)[:count], positions[:count])
        mine, expected = (
            after(each, seq, (step, number), recent, cut) for each, seq in ((engine, mine), (other, expected))
        )
    assert engine.positions(mine) == other.positions(expected)
    assert engine.tokens(mine) == other.tokens(expected)
    assert_close(engine.next_logits(mine), other.next_logits(expected))


def after(engine: TransformersEngine, seq: int, done: tuple[str, int], recent: list[int], cut: int) -> int:
    """Do a step, among these positions where it edits in place, and return the sequence."""
    step, number = done
    if step == "prefill" and engine.next_position(seq) < 190:
        engine.prefill(seq, IDS[number : number + 1 + number // 3])
    elif step == "truncate":
        engine.truncate(seq, cut)
    elif step == "drop" and len(recent) > 3:
        engine.drop(seq, recent[1], recent[1] + 1)
    elif step == "shift" and len(recent) > 3 and recent[2] - recent[1] > 1:
        engine.shift(seq, recent[2], -1)
    elif step == "fork":
        return engine.fork(seq, cut)
    elif step == "reencode" and recent:
        engine.reencode(seq, recent[number % len(recent) :])
    elif step == "score":
        engine.score(seq, IDS[:20])
    return seq


def test_a_copy_holds_what_the_original_holds() -> None:
    engine, _ = ENGINES["gemma3"]
    seq = read(engine, IDS)
    fork = engine.fork(seq)
    recent = range(150 - WINDOW - EDITABLE, 150)
    assert_same_cells(engine.read_cells(fork, recent), engine.read_cells(seq, recent))
    with pytest.raises(ValueError, match="given back"):
        all_cells(engine, fork)
