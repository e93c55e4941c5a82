"""Export of a trained eraser as a GGUF LoRA adapter."""

from __future__ import annotations

from pathlib import Path

from kv_memory.errors import KVMemoryError
from kv_memory.trained.files import open_eraser


def export_adapter(eraser_dir: str | Path, base: Path, out: Path) -> None:
    """Write an eraser, a LoRA saved by PEFT, as a GGUF adapter for llama.cpp, in float32, with its record under
    ERASER_KEY.

    `eraser_dir`: a directory or hub id, with or without eraser.json, such as the published one. `base`: the model that
    it was trained for, as a directory or as a .gguf file.

    Raises ModelError for an eraser of another model, or one that a GGUF adapter cannot hold, UnsupportedModelError for
    other architectures than Qwen3, Qwen2 and Llama, KVMemoryError where `out` cannot be written.
    """
    if out.exists() and out.samefile(base):
        raise KVMemoryError(f"{out} is the model itself; give another name.")
    open_eraser(eraser_dir).to_gguf(base, out)
