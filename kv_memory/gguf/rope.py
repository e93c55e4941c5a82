"""The settings of rotary positions as GGUF metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kv_memory.errors import UnsupportedModelError

FREQUENCIES = "rope_freqs.weight"
_PLAIN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "attention_factor": None, "partial_rotary_factor": 1.0}
"""Values that llama.cpp uses in any case."""


def rope_fields(config: Any) -> dict[str, int | float | str]:
    """Return the GGUF metadata of a text config's rotary positions.

    Raises UnsupportedModelError for a kind that llama.cpp lacks.
    """
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    arch = config.model_type
    fields: dict[str, int | float | str] = {f"{arch}.rope.freq_base": float(rope["rope_theta"])}
    known = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    if kind == "llama3":
        known |= {"low_freq_factor", "high_freq_factor"}
    strange = [key for key, value in rope.items() if key not in known and value != _PLAIN.get(key)]
    kinds = ("default", "linear", "yarn", "llama3") if arch == "llama" else ("default", "linear", "yarn")
    if kind not in kinds or strange:
        raise UnsupportedModelError(
            f"Rotary positions of type {kind} {f'with {strange[0]} ' if strange else ''}in a model of type {arch} are "
            "not converted here; use llama.cpp's convert_hf_to_gguf.py."
        )
    if kind in ("linear", "yarn"):
        fields[f"{arch}.rope.scaling.type"] = kind
        fields[f"{arch}.rope.scaling.factor"] = float(rope["factor"])
    if kind == "yarn":
        fields[f"{arch}.rope.scaling.original_context_length"] = int(rope["original_max_position_embeddings"])
    return fields


def frequency_factors(config: Any) -> NDArray[np.float32] | None:
    """Return the divisors of the frequencies in Llama 3's scaling, [head_dim / 2]; None for other kinds."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double().numpy()
    size = 2 * len(scaled)
    plain = 1.0 / rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    factors: NDArray[np.float32] = (plain / scaled).astype(np.float32)
    return factors
