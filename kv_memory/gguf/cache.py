"""The embedded model as a GGUF file, converted at first use and kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kv_memory.errors import KVMemoryError
from kv_memory.gguf.model import export_model
from kv_memory.gguf.writer import Dtype, Progress
from kv_memory.pocket import model_path

_FORMAT = 1
"""Version of what `export_model` writes; counted up when it writes something else for the same model."""
_SOURCES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*.json", "chat_template.jinja")


def pocket_gguf(dtype: Dtype = "f32", progress: Progress = lambda done, total: None) -> Path:
    """Return the embedded model's GGUF file in `$XDG_CACHE_HOME/kv_memory` (default `~/.cache/kv_memory`).

    It is converted if missing, under another name, and renamed when complete: safe for several processes at once, and
    to interrupt. Raises KVMemoryError where the directory cannot be written.
    """
    path = cache_folder() / f"pocket-{dtype}-{_digest()}.gguf"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KVMemoryError(
                f"{path.parent} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a directory that can."
            ) from error
        export_model(model_path(), path, dtype, progress)
    return path


def cache_folder() -> Path:
    """Return the folder of converted models. By the XDG rules a relative XDG_CACHE_HOME is ignored."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "kv_memory"


def _digest() -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path in sorted(path for pattern in _SOURCES for path in model_path().glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
