"""The rows of a bench: one for each case and treatment, a line of JSON each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kv_memory.errors import KVMemoryError


class Row(BaseModel):
    """The result of one treatment of one case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    case: str
    conversation: str
    """Cases of one conversation are not independent: intervals are over conversations."""
    kind: str
    groups: dict[str, str | int | float]
    tokens: int
    """Tokens of the context."""
    erased: int
    following: int
    """Kept tokens after the first span's start: those that a recompute runs again."""
    treatment: str
    kl: float
    """Mean KL from never-saw over the scored tokens, in nats."""
    agrees: bool
    """Whether greedy decoding gives never-saw's tokens."""
    seconds: float
    recomputed: int
    answer: str | None = None
    """Greedy answer; None where given tokens are scored."""
    right: bool | None = None
    """Whether the answer is right; None where nothing is known to be."""
    misled: bool | None = None
    """Whether the answer gives what only the spans say; None where that is not known."""


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; a last line that was cut off is left out.

    Raises KVMemoryError for a file that holds something else.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            yield Row.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise KVMemoryError(f"{path}, line {number}, is no row of a bench; give another file.") from error
