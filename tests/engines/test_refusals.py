"""Models whose cache cannot be edited by the cell are refused at construction, by layer and type."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GlmMoeDsaConfig,
    GPT2Config,
    MambaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3NextConfig,
    Qwen3VLConfig,
    RwkvConfig,
)

from kv_memory.engines.parts import lacks
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import class_of
from kv_memory.errors import UnsupportedModelError, UnsupportedOperationError
from kv_memory.testing.chat import tiny_tokenizer

SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
VISION |= {"deepstack_visual_indexes": [0]}
AXES: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 1, 1]}
MAMBA = MambaConfig(vocab_size=272, hidden_size=32, num_hidden_layers=2)
"""Its layers are of type "mamba" in older transformers, "linear_attention" in newer."""
REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "scores that are capped": (Gemma2Config(**SHAPE, head_dim=8), r"Layer 0 changes its attention scores \(softcap\)"),
    "an index of the cells to see": (
        GlmMoeDsaConfig(
            **SHAPE, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, num_experts=2,
            index_topk=4, index_n_heads=2, index_head_dim=8, moe_intermediate_size=16,
        ),
        "Layer 0 .*glm_moe_dsa.* of type .*, which chooses the cells that a token sees by an index of its own",
    ),
    "linear attention": (
        Qwen3NextConfig(**SHAPE, layer_types=["full_attention", "linear_attention"], num_experts=2),
        "Layer 1 .*qwen3_next.* linear_attention",
    ),
    "Mamba": (MAMBA, f"Layer 0 .*mamba.* of type {MAMBA.layer_types[0]},"),
    "RWKV": (
        RwkvConfig(vocab_size=272, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2),
        "Layer 0 .*rwkv.* keeps no K and V",
    ),
    "positions of several axes": (
        Qwen3VLConfig(
            text_config={**SHAPE, "head_dim": 8, "rope_parameters": AXES},
            vision_config=VISION,
        ),
        r"This qwen3_vl_text model has positions of several axes \(M-RoPE\)",
    ),
    "ALiBi": (BloomConfig(vocab_size=272, hidden_size=32, n_layer=2, n_head=4), "Layer 0 .*bloom.* in its own way"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(config: PreTrainedConfig, reason: str) -> None:
    model = class_of(config).from_config(config)
    with pytest.raises(UnsupportedModelError) as refused:
        TransformersEngine(model, tiny_tokenizer())
    message = str(refused.value)
    assert re.search(reason, message)
    assert "use a model with full attention or sliding windows" in message


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = AutoModelForCausalLM.from_config(REFUSED["scores that are capped"][0])
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError):
        TransformersEngine(model, tiny_tokenizer())
    assert model.config._attn_implementation == before


def test_a_window_that_is_switched_off_is_no_window() -> None:
    config = Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=16)
    engine = TransformersEngine(AutoModelForCausalLM.from_config(config), tiny_tokenizer())
    assert engine.max_positions == 64


def test_learned_positions_are_taken_but_not_moved() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=4))
    engine = TransformersEngine(model, tiny_tokenizer())
    seq = engine.create()
    engine.prefill(seq, list(range(10)))
    assert lacks(engine, "shift")
    with pytest.raises(UnsupportedOperationError, match="cannot be moved"):
        engine.shift(seq, 5, 1)
