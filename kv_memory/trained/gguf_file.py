"""The record in a GGUF adapter of an eraser, read without loading the adapter."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kv_memory.errors import ModelError
from kv_memory.trained.record import EraserRecord


def read_record(path: Path) -> EraserRecord | None:
    """Return the record that `kv-memory export-gguf` wrote into this file; None for a LoRA of another converter.

    Raises ModelError where the file is not a whole GGUF LoRA.
    """
    from kv_memory.gguf import ERASER_KEY  # first, since it says what to install where gguf is missing

    import gguf  # isort: skip

    try:
        fields = gguf.GGUFReader(path).fields
        kind, record = (fields[key].contents() if key in fields else None for key in ("adapter.type", ERASER_KEY))
    except (IndexError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{path} is not a whole GGUF adapter ({reason}); export it again.") from error
    if kind != "lora":
        raise ModelError(f"{path} is not a LoRA adapter; give a file that kv-memory export-gguf wrote of an eraser.")
    if record is None:
        return None
    try:
        return EraserRecord.model_validate_json(record)
    except ValidationError as error:
        raise ModelError(
            f"{path} holds no record of an eraser of this version ({error.error_count()} problems); export it again."
        ) from error
