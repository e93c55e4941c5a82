"""GGUF files written tensor by tensor, whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from kv_memory.calibration.record import replacing
from kv_memory.errors import KVMemoryError

Dtype = Literal["f32", "f16", "q8_0"]
KINDS: dict[Dtype, Kind] = {"f32": Kind.F32, "f16": Kind.F16, "q8_0": Kind.Q8_0}
Progress = Callable[[int, int], None]
"""Hears how many tensors are written, and of how many."""


@dataclass(frozen=True)
class Planned:
    """A tensor of a file."""

    name: str
    shape: tuple[int, ...]
    """As numpy has it: rows first, the other way round than GGUF."""
    kind: Kind

    @classmethod
    def of(cls, name: str, shape: Sequence[int], kind: Kind) -> Planned:
        """As llama.cpp stores it: vectors in float32, rows that do not fill blocks of this kind in float16."""
        if len(shape) == 1:
            kind = Kind.F32
        elif shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = Kind.F16
        return cls(name, tuple(shape), kind)

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size


def write_file(
    out: Path,
    writer: gguf.GGUFWriter,
    planned: Sequence[Planned],
    encode: Callable[[Planned], NDArray[Any]],
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the metadata that `writer` was given and these tensors, each as `encode` gives it, of its kind.

    `out` is replaced when all is written; after an error or an interruption it is as before. Raises KVMemoryError where
    it cannot be written.
    """
    if out.is_dir():
        raise KVMemoryError(f"{out} is a directory; give the name of a file.")
    for tensor in planned:
        # With a kind given, the dtype is not looked at, but for uint8, which would mean a shape in bytes.
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.kind)
    with replacing(out) as draft:
        try:
            writer.write_header_to_file(draft)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, tensor in enumerate(planned):
                progress(done, len(planned))
                writer.write_tensor_data(encode(tensor))
            progress(len(planned), len(planned))
            writer.flush()
        except OSError as error:
            raise KVMemoryError(f"{out} cannot be written: {error.strerror or error}.") from error
        finally:
            with suppress(OSError):
                writer.close()
