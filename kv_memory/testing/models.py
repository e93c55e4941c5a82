"""Tiny random models of several architectures, and a tokenizer with tokens of one and two characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Cohere2Config,
    DeepseekV3Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    Glm4MoeLiteConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from kv_memory.testing.chat import tiny_model, tiny_tokenizer

CHAT, CHAT_HYBRID = "chat", "chat-hybrid"
"""Names of the models with a chat template, which are none of CONFIGS and HYBRIDS."""
VOCABULARY = 416
CONTEXT = 256


def _rope(kind: str, **parameters: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **parameters}}


def _config(
    kind: Callable[..., PreTrainedConfig], leave_out: Collection[str] = (), **settings: Any
) -> Callable[[], PreTrainedConfig]:
    """Return a function that makes a config of 3 layers of width 32, with weights large enough for tokens to matter to
    each other."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "eos_token_id": 400,
        "pad_token_id": None,
    }
    return lambda: kind(**{name: value for name, value in (shape | settings).items() if name not in leave_out})


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": _config(LlamaConfig),
    "llama-mha-llama3": _config(
        LlamaConfig,
        num_key_value_heads=4,
        **_rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=CONTEXT // 4,
        ),
    ),
    "llama-linear": _config(LlamaConfig, **_rope("linear", factor=2.0)),
    "qwen2": _config(Qwen2Config),
    "qwen3": _config(Qwen3Config, head_dim=16),
    "qwen3-yarn": _config(
        Qwen3Config, head_dim=16, **_rope("yarn", factor=4.0, original_max_position_embeddings=CONTEXT // 4)
    ),
    "mistral": _config(MistralConfig, sliding_window=None),
    "gemma-mqa": _config(GemmaConfig, head_dim=16, num_key_value_heads=1),
    "phi3-partial": _config(Phi3Config, **_rope("default", partial_rotary_factor=0.5)),
}

WINDOW = 24
"""Tokens that a layer with a window sees in WINDOWS: fewer than the tests' sequences have."""
_WINDOWED: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
_WINDOWED |= {"num_hidden_layers": 4}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
}
WINDOWS: dict[str, Callable[[], PreTrainedConfig]] = {
    "mistral-window": _config(MistralConfig, sliding_window=WINDOW),
    "phi3-window": _config(Phi3Config, sliding_window=WINDOW),
    "gemma3": _config(
        Gemma3TextConfig,
        head_dim=16,
        query_pre_attn_scalar=16,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        **_WINDOWED,
    ),
    "gemma4": _config(
        Gemma4TextConfig,
        head_dim=8,
        initializer_range=0.1,
        global_head_dim=16,
        num_global_key_value_heads=1,
        attention_k_eq_v=False,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        use_double_wide_mlp=False,
        enable_moe_block=False,
        sliding_window=WINDOW,
        num_hidden_layers=6,
        layer_types=["sliding_attention", "full_attention"] * 3,
    ),
    "gpt-oss": _config(
        GptOssConfig,
        head_dim=16,
        **_rope("yarn", factor=4.0, original_max_position_embeddings=CONTEXT // 4, beta_fast=32.0, beta_slow=1.0),
        **_EXPERTS,
        **_WINDOWED,
    ),
    "olmo3": _config(Olmo3Config, **_WINDOWED),
    "cohere2": _config(Cohere2Config, head_dim=8, logit_scale=1.0, **_WINDOWED),
    "llama4": _config(
        Llama4TextConfig,
        head_dim=8,
        intermediate_size_mlp=48,
        num_hidden_layers=4,
        attention_chunk_size=CONTEXT,
        no_rope_layer_interval=2,
        interleave_moe_layer_step=2,
        **_EXPERTS,
    ),
    "glm4-moe-lite": _config(Glm4MoeLiteConfig, **_LATENT),
    "deepseek-v3": _config(DeepseekV3Config, **_LATENT),
}
"""Models of which some layers do not see all that is before a token, or keep other rows than one K and one V a head."""


def _hybrid(kind: str, **settings: Any) -> Callable[[], PreTrainedConfig]:
    """Return a function that makes a config of 4 layers, with weights small enough for rounding to stay small."""
    shape = {"num_hidden_layers": 4, "initializer_range": 0.1, **settings}
    return _config(CONFIG_MAPPING[kind], **shape)


_DELTA_NET: dict[str, Any] = {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_SPARSE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 16,
}

HYBRIDS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_5": _hybrid("qwen3_5_text", head_dim=16, initializer_range=0.15, **_DELTA_NET),
    "qwen3_next": _hybrid("qwen3_next", head_dim=16, **_DELTA_NET, **_SPARSE),
    "olmo_hybrid": _hybrid("olmo_hybrid", **_DELTA_NET),
    "kimi_linear": _hybrid(
        "kimi_linear",
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        num_key_value_heads=4,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
    ),
    "lfm2": _hybrid("lfm2", layer_types=["conv", "conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
    "granitemoehybrid": _hybrid(
        "granitemoehybrid",
        layer_types=["mamba", "mamba", "attention", "mamba"],
        num_local_experts=0,
        shared_intermediate_size=48,
        **_MAMBA,
    ),
    "bamba": _hybrid("bamba", attn_layer_indices=[2], **_MAMBA),
    "falcon_h1": _hybrid("falcon_h1", mamba_d_ssm=64, **_MAMBA),
    "nemotron_h": _hybrid(
        "nemotron_h",
        leave_out=("num_hidden_layers",),
        layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        conv_kernel=4,
        chunk_size=16,
        head_dim=8,
    ),
    "jamba": _hybrid(
        "jamba",
        attn_layer_period=4,
        attn_layer_offset=2,
        num_experts=1,
        expert_layer_period=100,
        mamba_d_state=8,
        use_mamba_kernels=False,
    ),
}
"""Models in which some layers keep one running state of all tokens: gated delta-net, mamba, short convolution."""
ALL = CONFIGS | WINDOWS | HYBRIDS


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of bytes in which each pair of two of the letters a to l is a token too; 400 ends a turn."""
    letters = "abcdefghijkl"
    pairs = [(one, other) for one in letters for other in letters]
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {one + other: 256 + i for i, (one, other) in enumerate(pairs)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def save_model(name: str, folder: Path) -> Path:
    """Write the model of this name, and the tokenizer, as a directory that `from_pretrained` reads; return it."""
    if name == CHAT:
        tiny_model().save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder
    if name == CHAT_HYBRID:
        settings = {"vocab_size": 272, "max_position_embeddings": 2048, "eos_token_id": None}
        tiny_hybrid("qwen3_5", **settings).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder
    if name in HYBRIDS:
        model = tiny_hybrid(name)
    else:
        torch.manual_seed(list(ALL).index(name))
        model = AutoModelForCausalLM.from_config(ALL[name]())
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tiny_hybrid(name: str, **settings: Any) -> PreTrainedModel:
    """Make a model of HYBRIDS, with other settings of its configuration.

    NOTE: random states decay within a few tokens; here slowly, so that a state that still holds a text shows it.
    """
    config = HYBRIDS[name]()
    for key, value in settings.items():
        setattr(config, key, value)
    torch.manual_seed(sorted(HYBRIDS).index(name))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if parameter.endswith("A_log"):
                weight.uniform_(math.log(0.01), math.log(0.5))
    return model
