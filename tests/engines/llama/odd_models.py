"""Tiny random GGUF models of kinds that LlamaCppEngine refuses, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, INNER, VOCABULARY, CONTEXT = 32, 64, 64, 256
_ATTENTION: dict[str, tuple[int, ...]] = {
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (16, WIDTH),
    "attn_v.weight": (16, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
}
_FEED_FORWARD = {
    "ffn_norm.weight": (WIDTH,),
    "ffn_gate.weight": (48, WIDTH),
    "ffn_up.weight": (48, WIDTH),
    "ffn_down.weight": (WIDTH, 48),
}
_STATE_SPACE = {
    "ssm_in.weight": (2 * INNER, WIDTH),
    "ssm_conv1d.weight": (INNER, 4),
    "ssm_conv1d.bias": (INNER,),
    "ssm_x.weight": (2 + 2 * 8, INNER),
    "ssm_dt.weight": (INNER, 2),
    "ssm_dt.bias": (INNER,),
    "ssm_a": (INNER, 8),
    "ssm_d": (INNER,),
    "ssm_out.weight": (WIDTH, INNER),
}
_GROUPED_STATE_SPACE: dict[str, tuple[int, ...]] = {
    "ssm_in.weight": (2 * INNER + 2 * 8 + 4, WIDTH),
    "ssm_conv1d.weight": (INNER + 2 * 8, 4),
    "ssm_conv1d.bias": (INNER + 2 * 8,),
    "ssm_dt.bias": (4,),
    "ssm_a": (4, 1),
    "ssm_d": (4, 1),
    "ssm_norm.weight": (1, INNER),
    "ssm_out.weight": (WIDTH, INNER),
}
_CONVOLUTION = {
    "shortconv.conv.weight": (WIDTH, 3),
    "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
    "shortconv.out_proj.weight": (WIDTH, WIDTH),
}
_NORM = {"attn_norm.weight": (WIDTH,)}
_HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2, "feed_forward_length": 48}


def recurrent(path: Path) -> Path:
    """Mamba."""
    sizes = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": INNER,
        "ssm.state_size": 8,
        "ssm.time_step_rank": 2,
        "attention.head_count": 0,
        "feed_forward_length": 0,
    }
    return _write(path, "mamba", sizes, [_NORM | _STATE_SPACE] * 2)


def granite(path: Path) -> Path:
    """Granite 4: layers of Mamba 2 around one of attention."""
    ssm = {"conv_kernel": 4, "inner_size": INNER, "state_size": 8, "time_step_rank": 4, "group_count": 1}
    sizes = {**_HEADS, "attention.head_count_kv": [0, 2, 0], **{f"ssm.{name}": size for name, size in ssm.items()}}
    mixers = [_GROUPED_STATE_SPACE, _ATTENTION, _GROUPED_STATE_SPACE]
    return _write(path, "granitehybrid", sizes, [_NORM | mixer | _FEED_FORWARD for mixer in mixers])


def hybrid(path: Path, window: int = 0) -> Path:
    """LFM2: a layer of convolution and one of attention, which sees only `window` tokens if that is given."""
    norms = {"attn_q_norm.weight": (8,), "attn_k_norm.weight": (8,)}
    layers = [_NORM | _CONVOLUTION | _FEED_FORWARD, _NORM | _ATTENTION | norms | _FEED_FORWARD]
    sizes = {**_HEADS, "attention.head_count_kv": [0, 2], "shortconv.l_cache": 3, "attention.sliding_window": window}
    return _write(path, "lfm2", sizes, layers, norm="token_embd_norm.weight")


def windowed(path: Path, window: int) -> Path:
    """Write Gemma 2, in which every other layer sees only `window` tokens."""
    norms = {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
    sizes = {**_HEADS, "attention.sliding_window": window, "attention.key_length": 8, "attention.value_length": 8}
    return _write(path, "gemma2", sizes, [_NORM | _ATTENTION | norms | _FEED_FORWARD] * 2)


def of_several_axes(path: Path) -> Path:
    """Qwen2-VL: M-RoPE."""
    sizes = {**_HEADS, "rope.dimension_sections": [1, 1, 2, 0]}
    return _write(path, "qwen2vl", sizes, [_NORM | _ATTENTION | _FEED_FORWARD] * 2)


def encoder(path: Path) -> Path:
    """Write the encoder of T5, in which tokens see those after them."""
    parts: dict[str, tuple[int, ...]] = {
        "q": (WIDTH, WIDTH),
        "k": (WIDTH, WIDTH),
        "v": (WIDTH, WIDTH),
        "o": (WIDTH, WIDTH),
    }
    layer: dict[str, tuple[int, ...]] = {f"enc.attn_{name}.weight": shape for name, shape in parts.items()} | {
        "enc.attn_norm.weight": (WIDTH,)
    }
    layer |= {f"enc.{name}": shape for name, shape in _FEED_FORWARD.items()} | {"enc.attn_rel_b.weight": (32, 4)}
    sizes = {**_HEADS, "attention.head_count_kv": 4, "attention.relative_buckets_count": 32}
    return _write(path, "t5encoder", sizes, [layer] * 2, norm="enc.output_norm.weight")


def indexed(path: Path) -> Path:
    """Write a Llama whose file says that an index chooses the cells."""
    return _write(path, "llama", {**_HEADS, "attention.indexer.top_k": 8}, [_NORM | _ATTENTION | _FEED_FORWARD] * 2)


def unknown(path: Path) -> Path:
    """Write a model of an unknown architecture."""
    return _write(path, "nonesuch", _HEADS, [_NORM | _ATTENTION | _FEED_FORWARD])


def _named(layer: int, name: str) -> str:
    """Return the name of a layer's tensor; those of an encoder are told by their beginning."""
    return f"enc.blk.{layer}.{name[4:]}" if name.startswith("enc.") else f"blk.{layer}.{name}"


def _write(
    path: Path,
    arch: str,
    sizes: dict[str, Any],
    layers: list[dict[str, tuple[int, ...]]],
    norm: str = "output_norm.weight",
) -> Path:
    """Shapes are numpy's. Every matrix is random, every norm one."""
    numbers = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    sizes = {"context_length": CONTEXT, "embedding_length": WIDTH, "block_count": len(layers), **sizes}
    for key, value in sizes.items():
        (writer.add_array if isinstance(value, list) else writer.add_uint32)(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*"abcdefghijkl", *(f"<{i}>" for i in range(VOCABULARY - 13)), "\n"])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(VOCABULARY - 2)
    tensors = {"token_embd.weight": (VOCABULARY, WIDTH), norm: (WIDTH,)}
    tensors |= {_named(i, name): shape for i, layer in enumerate(layers) for name, shape in layer.items()}
    for name, shape in tensors.items():
        ones = len(shape) == 1 and "norm" in name
        writer.add_tensor(name, (np.ones(shape) if ones else numbers.normal(0, 0.2, shape)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
