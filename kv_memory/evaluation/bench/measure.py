"""A bench from its suites to its rows: cases are made, and what is not in the record yet is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.bench.record import Record
from kv_memory.evaluation.bench.rows import Row
from kv_memory.evaluation.bench.run import Bench
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.progress import Progress
from kv_memory.evaluation.suites.registry import get_suite
from kv_memory.evaluation.suites.source import Source


def make_cases(names: Iterable[str], source: Source, count: int) -> list[Case]:
    """Return the first `count` cases of each suite, or all that it has.

    Raises KVMemoryError for an unknown suite, and where one lacks its data or has no case that fits.
    """
    cases: list[Case] = []
    for name in names:
        found = list(islice(get_suite(name)(source), count))
        if not found:
            raise KVMemoryError(
                f"The suite {name} has no case of at most {source.longest:,} tokens; give a larger --longest."
            )
        cases += found
    return cases


def measure(bench: Bench, cases: Sequence[Case], record: Record, progress: Progress) -> list[Row]:
    """Measure what the record lacks, add it there, and return the rows of these cases and the bench's treatments."""
    for number, case in enumerate(cases):
        progress(f"Measuring {case.suite}", number, len(cases))
        for rows in bench.rows([case], record.known):
            record.add(rows)
    progress("Measured", len(cases), len(cases))
    return record.rows(cases, bench.treatments)
