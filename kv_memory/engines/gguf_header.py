"""The metadata at the beginning of a GGUF file, read without llama.cpp and without loading the model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of the numbers, by GGUF's numbers of types."""
_TEXT, _ARRAY = 8, 9
_CONTEXT = ".context_length"


def trained_context(path: Path) -> int | None:
    """Return the longest context that a GGUF file says, in tokens; None where it says none or cannot be read."""
    try:
        with path.open("rb") as file:
            return next((int(value) for key, value in _scalars(file) if key.endswith(_CONTEXT)), None)
    except (OSError, KeyError, ValueError, struct.error):
        return None


def _scalars(file: BinaryIO) -> Iterator[tuple[str, float]]:
    """Yield the numbers of the metadata by key."""
    if file.read(4) != b"GGUF":
        return
    _number(file, "I")
    _number(file, "Q")
    for _ in range(int(_number(file, "Q"))):
        key, kind = _text(file), int(_number(file, "I"))
        if kind in _NUMBERS:
            yield key, _number(file, _NUMBERS[kind])
        else:
            _skip(file, kind)


def _skip(file: BinaryIO, kind: int) -> None:
    """Pass over a text, a number or an array."""
    if kind == _TEXT:
        file.seek(int(_number(file, "Q")), 1)
    elif kind != _ARRAY:
        file.seek(struct.calcsize(_NUMBERS[kind]), 1)
    else:
        of, count = int(_number(file, "I")), int(_number(file, "Q"))
        if of in _NUMBERS:
            file.seek(count * struct.calcsize(_NUMBERS[of]), 1)
            return
        for _ in range(count):
            _skip(file, of)


def _text(file: BinaryIO) -> str:
    return file.read(int(_number(file, "Q"))).decode("utf-8", "replace")


def _number(file: BinaryIO, form: str) -> float:
    size = struct.calcsize(form)
    value: float = struct.unpack(f"<{form}", file.read(size))[0]
    return value
