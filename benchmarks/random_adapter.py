"""A random LoRA for a GGUF model, for timing what a trained eraser costs; what it makes of tokens means nothing."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

RANK = 16


def write_adapter(model: Path, out: Path, seed: int) -> Path:
    """Write a LoRA of rank 16 on all projections; return its path."""
    reader, numbers = gguf.GGUFReader(model), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * RANK)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            columns, rows = (int(size) for size in tensor.shape)
            for side, shape in (("a", (RANK, columns)), ("b", (rows, RANK))):
                writer.add_tensor(f"{tensor.name}.lora_{side}", numbers.normal(0, 0.01, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
