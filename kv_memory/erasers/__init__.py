"""Ways to take spans out of a cache, one a file, by name."""

from __future__ import annotations

from kv_memory.engines.base import Engine
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.repair import Repair
from kv_memory.erasers.selective import Selective
from kv_memory.erasers.shift import Shift
from kv_memory.errors import KVMemoryError

ERASERS: dict[str, type[Eraser]] = {
    eraser.name: eraser for eraser in (Recompute, Drop, Shift, Repair, Selective, Influence)
}
"""All erasers, by the names that method.md and the command line use."""


def get_eraser(eraser: str | Eraser) -> Eraser:
    """The eraser of this name with its default settings; one with other settings is handed through.

    Raises KVMemoryError for an unknown name.
    """
    if isinstance(eraser, Eraser):
        return eraser
    if eraser not in ERASERS:
        raise KVMemoryError(f"There is no eraser {eraser!r}; choose one of {', '.join(ERASERS)}.")
    return ERASERS[eraser]()


EXACT_UP_TO = 128
"""Tokens after a span up to which reading them again costs about as much as an approximate erasure."""


def default_eraser(engine: Engine, following: int) -> Eraser:
    """The eraser where none was named: exact where `following`, the kept tokens after the span, are few."""
    if following <= EXACT_UP_TO or not engine.capabilities.influence:
        return Recompute()
    return Influence()
