"""The writer of GGUF files: tensor by tensor, and the whole file or nothing."""

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

from kv_memory.errors import KVMemoryError
from kv_memory.file_io import replacing

Dtype = Literal["f32", "f16", "q8_0"]
KINDS: dict[Dtype, Kind] = {"f32": Kind.F32, "f16": Kind.F16, "q8_0": Kind.Q8_0}
Progress = Callable[[int, int], None]
"""A callback that receives how many tensors are written, and the total."""


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    """Shape as numpy has it: rows first, the reverse of GGUF."""
    kind: Kind

    @classmethod
    def of(cls, name: str, shape: Sequence[int], kind: Kind) -> Planned:
        """Plan a tensor as llama.cpp stores it: vectors in float32, rows that do not fill blocks of `kind` in
        float16."""
        if len(shape) == 1:
            kind = Kind.F32
        elif shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = Kind.F16
        return cls(name, tuple(shape), kind)

    @property
    def bytes(self) -> int:
        """Return its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size


def write_file(
    out: Path,
    writer: gguf.GGUFWriter,
    planned: Sequence[Planned],
    encode: Callable[[Planned], NDArray[Any]],
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the metadata that `writer` holds and these tensors; `encode` returns each one's data, of its kind.

    `out` is replaced when all is written; after an error or an interruption it is as before. Raises KVMemoryError if it
    cannot be written.
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
