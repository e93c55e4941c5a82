"""Files that are replaced whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kv_memory.errors import KVMemoryError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside `path`, which it replaces after the block; after an exception `path` is as before.

    Raises KVMemoryError at once where nothing can be written there.
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        draft.touch()
    except OSError as error:
        raise KVMemoryError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
