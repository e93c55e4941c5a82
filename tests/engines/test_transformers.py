"""What only the transformers engine has: passes of bounded length, probe layers, and a model that is someone else's."""

from __future__ import annotations

import pytest
import torch

from kv_memory.engines.base import Engine, Sampling
from kv_memory.engines.parts import ProbeLayers, chosen_layers, lacks
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.influence import Influence
from kv_memory.errors import UnsupportedOperationError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.testing.reference import assert_close, plain_logits
from tests.tiny import tiny_engine

LONG = [(7 * i * i + i) % 256 for i in range(1300)]  # three passes of at most 512 tokens


def test_a_long_prompt_equals_one_plain_pass() -> None:
    engine = tiny_engine()
    done: list[int] = []
    seq = engine.create()
    engine.prefill(seq, LONG, progress=done.append)
    expected = plain_logits(tiny_model(), LONG)
    assert done == [512, 1024, 1300]
    assert_close(engine.next_logits(seq), expected[-1])
    other = engine.create()
    engine.prefill(other, LONG[:1])
    assert_close(engine.score(other, LONG[1:]), expected[:-1].log_softmax(-1))


def test_long_reencodings_equal_one_pass() -> None:
    engine = tiny_engine()
    seq = engine.create()
    engine.prefill(seq, LONG)
    engine.drop(seq, 20, 40)
    engine.reencode(seq, range(40, 1300))
    kept = [p for p in range(1300) if not 20 <= p < 40]
    assert_close(engine.next_logits(seq), plain_logits(tiny_model(), [LONG[p] for p in kept], kept)[-1])


def test_influence_in_passes_equals_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    seq = engine.create()
    engine.prefill(seq, LONG[:200])
    _, whole = engine.influence(seq, [(50, 60)])
    monkeypatch.setattr("kv_memory.engines.attention_mass.MASK_AT_ONCE", 200 * 7)
    _, parts = engine.influence(seq, [(50, 60)])
    assert_close(parts, whole)


def test_influence_has_a_row_for_each_probe_layer() -> None:
    scores = []
    for layers in ((0,), (1,), (0, 1)):
        engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=layers)
        seq = engine.create()
        engine.prefill(seq, LONG[:100])
        scores.append(engine.influence(seq, [(20, 30)])[1])
    assert_close(scores[2], torch.cat(scores[:2]))
    assert_close(engine.influence(seq, [(20, 30)], layers=[1])[1], scores[1])
    for unknown in ((), (2,)):
        with pytest.raises(ValueError, match="queries are kept of layers"):
            engine.influence(seq, [(20, 30)], layers=unknown)


def test_influence_counts_the_cells_that_are_there_now() -> None:
    """The softmax is over all cells before the asking one: what an earlier score kept of it does not outlive them."""
    engine = tiny_engine()
    seq = engine.create()
    engine.prefill(seq, LONG[:200])
    engine.influence(seq, [(50, 60)])
    engine.drop(seq, 50, 60)
    engine.shift(seq, 60, -10)
    _, kept = engine.influence(seq, [(70, 80)])
    _, fresh = engine.influence(engine.fork(seq), [(70, 80)])
    assert_close(kept, fresh)


@pytest.mark.parametrize(("depth", "kept"), [(1, 0), (2, 1), (3, 2), (24, 14), (30, 17)])
def test_by_default_a_layer_four_sevenths_down_is_probed(depth: int, kept: int) -> None:
    assert chosen_layers(None, depth) == (kept,)


@pytest.mark.parametrize(("layers", "kept"), [(None, (1,)), ("all", (0, 1)), ((1, 0, 1), (0, 1)), ((), ())])
def test_it_says_which_queries_it_keeps_and_what_one_layers_take(layers: ProbeLayers, kept: tuple[int, ...]) -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=layers)
    assert engine.probe_layers == kept
    cells = engine.create()
    engine.prefill(cells, [1, 2, 3])
    read = engine.read_cells(cells, [0, 1, 2])
    numbers = [sum(rows.numel() for rows in part) for part in (read.queries, (*read.keys, *read.values))]
    taken = numbers[0] / numbers[1]
    assert taken == len(kept) * engine.probe_memory


def test_without_probe_layers_there_is_no_influence() -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=())
    seq = engine.create()
    engine.prefill(seq, LONG[:30])
    assert lacks(engine, "influence")
    assert engine.read_cells(seq, range(30)).queries == ()
    with pytest.raises(UnsupportedOperationError, match="'influence' needs influence"):
        Influence().erase(engine, seq, [(5, 9)])
    assert engine.tokens(seq) == LONG[:30]


def test_a_probe_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 2"):
        TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=(2,))


def test_one_probe_layer_of_a_qwen3_8b_shape_adds_5_6_percent() -> None:
    layers, heads, kv_heads = 36, 32, 8
    assert heads / (2 * layers * kv_heads) == pytest.approx(0.056, abs=0.0005)


def test_decoding_passes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    engine = TransformersEngine(model, tiny_tokenizer())
    masks: list[object] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    seq = engine.create()
    engine.prefill(seq, LONG[:50])
    list(engine.generate(seq, Sampling(max_tokens=5)))
    assert masks == [None] * 6


def test_the_model_is_its_owners_between_calls() -> None:
    """Attention implementation and output are as before, during a generation too."""
    model = tiny_model()
    model.set_attn_implementation("eager")
    expected = plain_logits(model, LONG[:40])
    engine = TransformersEngine(model, tiny_tokenizer())
    seq = engine.create()
    engine.prefill(seq, LONG[:40])
    tokens = engine.generate(seq, Sampling(max_tokens=5))
    next(tokens)
    assert model.config._attn_implementation == "eager"
    assert torch.equal(plain_logits(model, LONG[:40]), expected)


def test_two_generations_may_take_turns() -> None:
    engine: Engine = tiny_engine()
    alone = []
    for prompt in (LONG[:30], LONG[100:130]):
        seq = engine.create()
        engine.prefill(seq, prompt)
        alone.append([token.id for token in engine.generate(engine.fork(seq), Sampling(max_tokens=6))])
    sequences = [engine.create(), engine.create()]
    engine.prefill(sequences[0], LONG[:30])
    engine.prefill(sequences[1], LONG[100:130])
    runs = [engine.generate(seq, Sampling(max_tokens=6)) for seq in sequences]
    turns = [(first.id, second.id) for first, second in zip(*runs, strict=True)]
    assert [list(ids) for ids in zip(*turns, strict=True)] == alone


def test_results_can_be_changed_outside_of_inference_mode() -> None:
    engine = tiny_engine()
    seq = engine.create()
    engine.prefill(seq, LONG[:30])
    cells = engine.read_cells(seq, range(30))
    results = (engine.score(seq, [1, 2]), engine.influence(seq, [(3, 5)])[1], engine.deviation(seq, [7]), *cells.keys)
    assert not any(result.is_inference() for result in results)


def test_the_engine_has_a_lock_that_its_holder_may_take_again() -> None:
    engine = tiny_engine()
    with engine.lock, engine.lock:
        assert engine.create() == 1
