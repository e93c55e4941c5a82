"""What a lone token shows of a model, and what it does not: models that are refused, or used with care, for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.parts import lacks
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import place_of
from kv_memory.engines.transformers.probe import context_limit, reaches
from kv_memory.errors import ArgumentError, ModelError, UnsupportedModelError
from kv_memory.testing.models import CONFIGS, CONTEXT, VOCABULARY, WINDOW, WINDOWS, tokenizer
from kv_memory.testing.reference import all_cells, assert_close, assert_close_cells, plain_logits, without

IDS = torch.randint(1, 250, (120,), generator=torch.Generator().manual_seed(1)).tolist()
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 400,
    "pad_token_id": None,
}


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def read(engine: TransformersEngine, ids: list[int]) -> int:
    seq = engine.create()
    engine.prefill(seq, ids)
    return seq


def test_keys_move_where_the_first_token_is_padding_and_embedded_as_zeros() -> None:
    config = CONFIGS["qwen3"]()
    config.pad_token_id = 0
    engine = TransformersEngine(model_of(config), tokenizer())
    seq = read(engine, IDS[:40])
    engine.shift(seq, 0, 30)
    there = engine.create()
    engine.prefill(there, IDS[:40], range(30, 70))
    assert_close_cells(all_cells(engine, seq), all_cells(engine, there))


def test_keys_are_not_moved_where_nothing_shows_how() -> None:
    model = model_of(CONFIGS["qwen3"]())
    model.get_input_embeddings().weight.data.zero_()
    assert "is not known" in lacks(TransformersEngine(model, tokenizer()), "shift")


@pytest.mark.parametrize("tokens", [[5], [30, 31, 32, 70, 71], list(range(120))], ids=["one", "two runs", "all"])
def test_queries_that_are_scaled_by_the_position_are_so_by_their_own(tokens: list[int]) -> None:
    """Llama 4 counts positions on from where the cache ends; beyond a size they scale queries."""
    config = WINDOWS["llama4"]()
    config.floor_scale = 40
    model = model_of(config)
    engine = TransformersEngine(model, tokenizer())
    seq = read(engine, IDS)
    assert_close(engine.next_logits(seq), plain_logits(model, IDS)[-1])
    before = all_cells(engine, seq)
    engine.reencode(seq, tokens)
    assert_close_cells(all_cells(engine, seq), before)
    engine.drop(seq, 20, 33)
    engine.reencode(seq, range(33, 120))
    fresh = engine.create()
    engine.prefill(fresh, without(IDS, (20, 33)), without(range(120), (20, 33)))
    assert_close_cells(all_cells(engine, seq), all_cells(engine, fresh))


def test_a_model_that_masks_by_itself_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Layer 0 makes a mask of its own"):
        TransformersEngine(model_of(CONFIG_MAPPING["doge"](**SHAPE)), tokenizer())


@pytest.mark.parametrize("mode", [{}, {"recurrent_kv_cache_mode": "last_loop"}], ids=["all loops", "last loop"])
def test_layers_that_run_in_loops_are_refused(mode: dict[str, Any]) -> None:
    config = CONFIG_MAPPING["dory"](**SHAPE, head_dim=8, sliding_window=24, n_input_layers=1, n_output_layers=1, **mode)
    with pytest.raises(UnsupportedModelError, match="its layers run in loops"):
        TransformersEngine(model_of(config), tokenizer())


def test_a_window_of_which_attention_is_not_told_is_refused() -> None:
    model = model_of(CONFIGS["llama"]())
    model.config.sliding_window = WINDOW
    with pytest.raises(UnsupportedModelError, match="of which its attention is not told; take sliding_window out"):
        TransformersEngine(model, tokenizer())


@pytest.mark.parametrize("normaliser", ["softmax", "sampled"])
def test_attention_that_rests_on_late_cells_alone_is_measured(normaliser: Any) -> None:
    """The first cells have so small a share that no quotient can be taken of it."""
    config = CONFIGS["qwen3"]()
    config.initializer_range = 0.2
    model = model_of(config)
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.data *= 40
    engine = TransformersEngine(model, tokenizer())
    positions, scores = engine.influence(read(engine, IDS), [(30, 44)], normaliser=normaliser)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = model(torch.tensor([IDS]), output_attentions=True, use_cache=False).attentions
    expected = attention[engine.probe_layers[0]][0].mean(0)[positions, 30:44].sum(-1)
    torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sinks_do_not_hide_how_keys_turn(dtype: torch.dtype) -> None:
    config = WINDOWS["gpt-oss"]()
    config.num_hidden_layers, config.layer_types = 12, ["sliding_attention", "full_attention"] * 6
    rotation = TransformersEngine(model_of(config).to(dtype), tokenizer()).rotation
    assert rotation is not None
    assert all(turn is not None for turn in rotation.keys)
    assert not any(rotation.values)


def test_a_rotation_the_other_way_is_found() -> None:
    config = CONFIG_MAPPING["nanochat"](**{**SHAPE, "head_dim": 8})
    model = model_of(config)
    engine = TransformersEngine(model, tokenizer())
    seq = read(engine, IDS[:40])
    engine.shift(seq, 0, 30)
    assert_close(engine.next_logits(seq), plain_logits(model, IDS[:40])[-1])


NESTED: dict[str, Callable[[dict[str, Any]], PreTrainedConfig]] = {
    "by layer type": lambda rope: CONFIG_MAPPING["gemma3_text"](
        **SHAPE,
        head_dim=8,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )
}


def test_a_rope_that_ends_at_its_original_length_limits_the_context_wherever_it_is_said() -> None:
    long = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, "factor": 4.0}
    long |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    assert context_limit(NESTED["by layer type"](long), None) == 64


def test_positions_of_several_axes_are_found_wherever_they_are_said() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    with pytest.raises(UnsupportedModelError, match="several axes"):
        reaches(NESTED["by layer type"](rope))


def test_an_error_of_the_models_code_is_told_in_a_line() -> None:
    model = model_of(CONFIGS["qwen3"]())

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the first line\nand a second one")

    model.model.norm.forward = broken
    with pytest.raises(UnsupportedModelError) as refused:
        TransformersEngine(model, tokenizer())
    assert "(the first line)" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layers", ["x", 5, (1.5,)])
def test_probe_layers_that_are_none(layers: Any) -> None:
    with pytest.raises(ArgumentError, match="probe_layers is a tuple of layer numbers"):
        TransformersEngine(model_of(CONFIGS["qwen3"]()), tokenizer(), probe_layers=layers)


def test_a_device_without_memory_is_none() -> None:
    with pytest.raises(ModelError, match="There is no device 'meta' here"):
        place_of("meta")


def test_a_budget_beyond_all_memory_is_none() -> None:
    with pytest.raises(ArgumentError, match="checkpoint_mb is a number of megabytes"):
        CheckpointSettings.of(10**400, None)
