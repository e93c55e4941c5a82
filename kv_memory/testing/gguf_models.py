"""Tiny random models of architectures that kv_memory does not convert, and their conversion to GGUF, float32.

The names of tensors are gguf's; the changes that llama.cpp wants of their numbers are those of its
convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kv_memory.gguf.tokenizer import add_tokenizer

ARCHITECTURES: dict[str, gguf.MODEL_ARCH] = {
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
    "glm4_moe_lite": gguf.MODEL_ARCH.DEEPSEEK2,
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
}
"""GGUF architectures by `model_type` of a transformers config."""
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.sliding_window": "sliding_window",
    "vocab_size": "vocab_size",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "logit_scale": "logit_scale",
    "shortconv.l_cache": "conv_L_cache",
}


def convert(folder: Path, out: Path) -> Path:
    """Write the model and the tokenizer of a directory as a GGUF file; return its path."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in _metadata(config).items():
        _add(writer, f"{writer.arch}.{key}", value)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    add_tokenizer(writer, tokenizer, config.vocab_size, [tokenizer.eos_token_id])
    for name, tensor in _tensors(model):
        writer.add_tensor(name, tensor.contiguous().numpy())
    _write(writer)
    return out


def convert_lora(folder: Path, model: Path, out: Path) -> Path:
    """Write a LoRA saved by PEFT for the model of a directory as a GGUF adapter; return its path."""
    config = AutoConfig.from_pretrained(model)
    said = json.loads((folder / "adapter_config.json").read_text())
    known = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, said["lora_alpha"])
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        found = known.get_name(f"{module}.weight", (".weight",))
        assert found is not None, f"llama.cpp has no place for {module} in a {config.model_type} model"
        writer.add_tensor(f"{found}.lora_{side.lower()}", tensor.contiguous().numpy())
    _write(writer)
    return out


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kind = gguf.GGUFValueType.get_type(value)
    if kind is gguf.GGUFValueType.INT32:
        kind = gguf.GGUFValueType.UINT32
    element = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
    writer.add_key_value(key, value, kind, element)


def _metadata(config: Any) -> dict[str, Any]:
    """Return the sizes of a config, under GGUF's keys without the architecture before them."""
    found = {key: getattr(config, name, None) for key, name in _SIZES.items()}
    found = {key: value for key, value in found.items() if value is not None}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found |= {"attention.key_length": head_dim, "attention.value_length": head_dim, "rope.dimension_count": head_dim}
    kinds = getattr(config, "layer_types", None) or []
    if "sliding_attention" in kinds:
        found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in kinds]
    return found | _rope(config.rope_parameters) | _OWN_METADATA.get(config.model_type, lambda config: {})(config)


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    if "full_attention" in parameters:
        own, windows = parameters["full_attention"], parameters["sliding_attention"]
        return _rope(own) | {"rope.freq_base_swa": float(windows["rope_theta"])}
    found: dict[str, Any] = {"rope.freq_base": float(parameters["rope_theta"])}
    if parameters["rope_type"] != "default":
        found["rope.scaling.type"] = parameters["rope_type"]
        found["rope.scaling.factor"] = float(parameters["factor"])
    if parameters["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = parameters["original_max_position_embeddings"]
    return found


def _latent(config: Any) -> dict[str, Any]:
    width = config.kv_lora_rank + config.qk_rope_head_dim
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": width,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "rope.dimension_count": config.qk_rope_head_dim,
        "leading_dense_block_count": config.mlp_layer_types.count("dense"),
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": int(gguf.ExpertGatingFuncType.SIGMOID),
    }


def _delta_net(config: Any) -> dict[str, Any]:
    rotary = int(config.head_dim * config.rope_parameters["partial_rotary_factor"])
    return {
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
        "full_attention_interval": config.layer_types.index("full_attention") + 1,
        "rope.dimension_count": rotary,
        "rope.dimension_sections": [(rotary // 2 + i) // 3 for i in (2, 1, 0)] + [0],  # axes of pairs, by turns
    }


_OWN_METADATA: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gpt_oss": lambda config: {"expert_feed_forward_length": config.intermediate_size},
    "glm4_moe_lite": _latent,
    "qwen3_5_text": _delta_net,
    "lfm2": lambda config: {
        "attention.head_count_kv": [
            config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types
        ],
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    },
}


Changed = Iterator[tuple[str, Tensor]]


def _tensors(model: Any) -> Changed:
    """Yield each tensor of a model under its GGUF name."""
    config, named = model.config, dict(model.state_dict())
    known = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    if config.tie_word_embeddings:
        del named["lm_head.weight"]
    change = _CHANGES.get(config.model_type, _unchanged)
    for parameter, tensor in named.items():
        for name, rows in change(config, parameter, tensor):
            found = known.get_name(name, (".weight", ".bias"))
            assert found is not None, f"llama.cpp has no place for {name} in a {config.model_type} model"
            yield found, rows


def _unchanged(config: Any, name: str, tensor: Tensor) -> Changed:
    yield name, tensor


def _gemma(config: Any, name: str, tensor: Tensor) -> Changed:
    yield name, tensor + 1 if name.endswith("norm.weight") else tensor


def _gpt_oss(config: Any, name: str, tensor: Tensor) -> Changed:
    """Gates and ups alternate in the rows of one tensor; llama.cpp has them apart, and experts transposed."""
    bias = name.endswith("_bias")
    kind = "bias" if bias else "weight"
    if "experts.gate_up_proj" in name:
        rows = tensor if bias else tensor.transpose(1, 2)
        for i, part in enumerate(("gate", "up")):
            yield f"{name.partition('gate_up_proj')[0]}{part}_proj.{kind}", rows[:, i::2]
    elif "experts.down_proj" in name:
        yield f"{name.removesuffix('_bias')}.{kind}", tensor if bias else tensor.transpose(1, 2)
    else:
        yield f"{name}.weight" if name.endswith("sinks") else name, tensor


def _glm_lite(config: Any, name: str, tensor: Tensor) -> Changed:
    """K and V are made of the latent row by matrices that llama.cpp multiplies queries and outputs with."""
    if name.endswith("kv_b_proj.weight"):
        heads = tensor.view(config.num_attention_heads, -1, config.kv_lora_rank)
        keys, values = heads[:, : config.qk_nope_head_dim], heads[:, config.qk_nope_head_dim :]
        yield name.replace("kv_b_proj", "k_b_proj"), keys.transpose(1, 2)
        yield name.replace("kv_b_proj", "v_b_proj"), values
    elif "experts.gate_up_proj" in name:
        for part, rows in zip(("gate", "up"), tensor.chunk(2, 1), strict=True):
            yield name.replace("gate_up_proj", f"{part}_proj.weight"), rows
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", tensor
    elif name.endswith("e_score_correction_bias"):
        yield name.replace("e_score_correction_bias", "e_score_correction.bias"), tensor
    else:
        yield name, tensor


def _lfm2(config: Any, name: str, tensor: Tensor) -> Changed:
    yield name, tensor.squeeze(1) if name.endswith("conv.conv.weight") else tensor


def _qwen35(config: Any, name: str, tensor: Tensor) -> Changed:
    """Heads of V that share one of K are apart in llama.cpp: the first of each group, then the second of each."""
    keys, values, width = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim

    def tiled(rows: Tensor, size: int) -> Tensor:
        heads = rows.reshape(keys, values // keys, size, *rows.shape[1:])
        return heads.transpose(0, 1).reshape(rows.shape)

    before = 2 * keys * config.linear_key_head_dim  # rows of Q and K
    if name.endswith("A_log"):
        yield name, tiled(-tensor.exp(), 1)
    elif name.endswith("dt_bias"):
        yield name.replace("dt_bias", "dt_proj.bias"), tiled(tensor, 1)
    elif name.endswith(("conv1d.weight", "in_proj_qkv.weight")):
        rows = tensor.squeeze(1) if "conv1d" in name else tensor
        yield name, torch.cat([rows[:before], tiled(rows[before:], width)])
    elif name.endswith("in_proj_z.weight"):
        yield name, tiled(tensor, width)
    elif name.endswith(("in_proj_a.weight", "in_proj_b.weight")):
        yield name, tiled(tensor, 1)
    elif name.endswith("linear_attn.out_proj.weight"):
        yield name, tiled(tensor.T, width).T
    elif name.endswith("norm.weight") and "linear_attn" not in name:
        yield name, tensor + 1
    else:
        yield name, tensor


_CHANGES: dict[str, Callable[[Any, str, Tensor], Changed]] = {
    "gemma3_text": _gemma,
    "gpt_oss": _gpt_oss,
    "glm4_moe_lite": _glm_lite,
    "lfm2": _lfm2,
    "qwen3_5_text": _qwen35,
}
