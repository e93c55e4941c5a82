"""Settings of the engine, checked and translated."""

from __future__ import annotations

from kv_memory.engines.parts import default_probe_layer
from kv_memory.errors import ModelError

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


def chosen_layers(layers: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    """Return the probe layers, by default that of `default_probe_layer`.

    Raises ValueError for a layer that does not exist.
    """
    chosen = (default_probe_layer(depth),) if layers is None else tuple(sorted(set(layers)))
    for layer in chosen:
        if not 0 <= layer < depth:
            raise ValueError(f"probe layer {layer} is not one of the model's {depth}")
    return chosen
