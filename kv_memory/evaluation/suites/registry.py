"""The table of suites, by the names of the command line."""

from __future__ import annotations

from collections.abc import Mapping

from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.suites.copying import copying
from kv_memory.evaluation.suites.distance import distance
from kv_memory.evaluation.suites.documents import documents
from kv_memory.evaluation.suites.memory import memory
from kv_memory.evaluation.suites.needle import needle
from kv_memory.evaluation.suites.source import Suite
from kv_memory.evaluation.suites.transcripts import transcripts

SUITES: Mapping[str, Suite] = {
    "documents": documents,
    "needle": needle,
    "memory": memory,
    "transcripts": transcripts,
    "distance": distance,
    "copy": copying,
}
"""All suites, in the order of the tables."""


def get_suite(name: str) -> Suite:
    """Return the suite of this name. Raises KVMemoryError for an unknown one."""
    if name not in SUITES:
        raise KVMemoryError(f"There is no suite {name!r}; choose one of {', '.join(SUITES)}.")
    return SUITES[name]
