"""Positional embeddings: which can be moved, and how far a context goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    SmolLM3Config,
)

from kv_memory.engines.parts import lacks
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.testing.reference import flat

SHAPE: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "pad_token_id": None,
}
IDS = list(range(5, 45))


def engine_of(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    torch.manual_seed(0)
    return TransformersEngine(AutoModelForCausalLM.from_config(config).to(dtype), tiny_tokenizer())


MOVABLE = {
    "interleaved pairs": CohereConfig(**SHAPE),
    "a quarter of the dimensions": GPTNeoXConfig(**SHAPE),
    "none in some layers": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0, 1, 0]),
    "yarn": LlamaConfig(
        **SHAPE,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "dynamic": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    "longrope": Phi3Config(
        **SHAPE,
        original_max_position_embeddings=128,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [4.0] * 4,
        },
    ),
}


@pytest.mark.parametrize("config", MOVABLE.values(), ids=MOVABLE)
def test_cells_moved_are_cells_read_there(config: PreTrainedConfig) -> None:
    """A whole sequence moved equals the same tokens read at the new positions, in all layers."""
    engine = engine_of(config)
    assert not lacks(engine, "shift")
    moved, there = engine.create(), engine.create()
    engine.prefill(moved, IDS)
    engine.shift(moved, 0, 61)
    engine.prefill(there, IDS, range(61, 101))
    actual, expected = (engine.read_cells(seq, range(61, 101)) for seq in (moved, there))
    torch.testing.assert_close(actual.keys, expected.keys, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.queries, expected.queries, rtol=1e-4, atol=1e-4)


def test_bfloat16_keys_move_within_their_rounding() -> None:
    """In the first layer: further up, tokens read elsewhere differ by more than their keys' rounding."""
    engine = engine_of(LlamaConfig(**SHAPE), torch.bfloat16)
    assert (lacks(engine, "shift"), engine.kv_dtype) == ("", "bfloat16")
    moved, there = engine.create(), engine.create()
    engine.prefill(moved, IDS)
    engine.shift(moved, 0, 61)
    engine.prefill(there, IDS, range(61, 101))
    actual, expected = (engine.read_cells(seq, range(61, 101)).keys[0].float() for seq in (moved, there))
    assert (actual - expected).norm() / expected.norm() < 0.01


def test_an_embedding_whose_frequencies_depend_on_the_position_is_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Angles that are not linear in the position do not add up, so that a key cannot be turned by the difference."""
    from transformers.models.llama import modeling_llama

    plain = modeling_llama.LlamaRotaryEmbedding.forward
    monkeypatch.setattr(
        modeling_llama.LlamaRotaryEmbedding,
        "forward",
        lambda self, x, position_ids: plain(self, x, position_ids.float().abs().sqrt()),
    )
    assert lacks(engine_of(LlamaConfig(**SHAPE)), "shift")


def test_longrope_ends_where_its_frequencies_change() -> None:
    assert engine_of(MOVABLE["longrope"]).max_positions == 128


def test_dynamic_scaling_begins_beyond_the_context() -> None:
    assert engine_of(MOVABLE["dynamic"]).max_positions == 256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keys_with_a_few_large_dimensions_move_in_all_dimensions(dtype: torch.dtype) -> None:
    """Qwen2.5's keys have dimensions of 200 that hardly turn, beside others of 1."""
    torch.manual_seed(0)
    shape = SHAPE | {"hidden_size": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    model = AutoModelForCausalLM.from_config(Qwen2Config(**shape, num_key_value_heads=2))
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias.data.view(2, 2, 8)[:, :, -1] = 200.0  # the pair of dimensions that turns least
    engine = TransformersEngine(model.to(dtype), tiny_tokenizer())
    assert not lacks(engine, "shift")
    for token in IDS[:8]:  # a lone token's key depends on its position alone
        here, there = engine.create(), engine.create()
        engine.prefill(here, [token], [90])
        engine.prefill(there, [token], [60])
        engine.shift(here, 90, -30)
        moved, own = (flat(engine.read_cells(seq, [60]).keys).float() for seq in (here, there))
        small = own.abs() < 20
        assert (moved - own)[small].norm() < 0.02 * own[small].norm()
