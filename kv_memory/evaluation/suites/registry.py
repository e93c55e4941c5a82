"""The table of suites, by the names of the command line."""

from __future__ import annotations

from kv_memory.evaluation.suites.documents import documents
from kv_memory.evaluation.suites.memory import memory
from kv_memory.evaluation.suites.source import Suite
from kv_memory.evaluation.suites.transcripts import transcripts

SUITES: dict[str, Suite] = {
    "documents": documents,
    "memory": memory,
    "transcripts": transcripts,
}
"""All suites, in the order of the tables."""
