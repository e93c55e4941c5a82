"""Settings of the engine, checked and translated."""

from __future__ import annotations

from collections.abc import Mapping

from kv_memory.errors import ModelError

ROPE = (
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
)
"""llama.cpp's settings of the rotary embedding; what is not set is as the file says."""
_KV_TYPES = {"f32": 0, "float32": 0, "f16": 1, "float16": 1}


def kv_type(dtype: str) -> int:
    """Return ggml's number of a type of K and V. Raises ModelError for others than float16 and float32."""
    name = dtype.removeprefix("torch.").lower()
    if name not in _KV_TYPES:
        raise ModelError(
            f"K and V cannot be kept as {dtype}: quantised rows cannot be put back as they were; use float16 or "
            "float32 (the weights of the model may be quantised)."
        )
    return _KV_TYPES[name]


def checked_rope(rope: Mapping[str, float] | None) -> dict[str, float]:
    """Return the settings of the rotary embedding. Raises ValueError for a name that is none of ROPE."""
    unknown = sorted(set(rope or {}) - set(ROPE))
    if unknown:
        raise ValueError(f"there is no rotary setting {unknown[0]!r}; there are {', '.join(ROPE)}")
    return dict(rope or {})
