"""Stage 2 on real sets: the cases of the suites that are kept for training (`Source.split`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from random import Random

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.registry import get_suite
from kv_memory.evaluation.suites.source import Source
from kv_memory.positions import Interval
from kv_memory.training.batch import Example
from kv_memory.training.queries import has_query, query_of

CASES = 200
"""Number of cases of a suite that are read, at most."""


class SuiteExamples:
    """The source of stage 2 examples of suites; all are made at once, and drawn again and again."""

    def __init__(self, suites: Mapping[str, list[Example]]) -> None:
        """Take the examples of each suite. Raises KVMemoryError for a suite that has none."""
        for name, examples in suites.items():
            if not examples:
                raise KVMemoryError(
                    f"The suite {name!r} has no conversation to train on that is short enough; leave it out, or give "
                    "a longer --length."
                )
        self.suites = {name: sorted(examples, key=_length) for name, examples in suites.items()}

    @classmethod
    def read(cls, names: Iterable[str], source: Source, cases: int = CASES) -> SuiteExamples:
        """Read the first cases of these suites. Raises KVMemoryError for an unknown suite, missing data, or a source
        whose split is not "train"."""
        if source.split != "train":
            raise KVMemoryError("Training reads the suites' conversations for training alone; give that split.")
        return cls({n: list(examples_of(source.form, islice(get_suite(n)(source), cases))) for n in names})

    def draw(self, rng: Random, tokens: int) -> Example:
        """Draw an example of a suite, each as often as the others, with a context of half to all of this many tokens.

        Where a suite has none of these, the example is any shorter one; where it has none of those, its shortest.
        """
        examples = self.suites[rng.choice(sorted(self.suites))]
        most = bisect_right(examples, tokens, key=_length)
        least = bisect_right(examples, tokens // 2, key=_length)
        return examples[rng.randrange(least if least < most else 0, max(1, most))]


def examples_of(form: ChatFormat, cases: Iterable[Case]) -> Iterator[Example]:
    """Yield the examples of cases: those that follow each other with the same context and spans share their examples.

    Of several spans each is erased from a context that lacks the others. Left out are cases in which nothing says what
    follows, and spans that begin or end a context.
    """
    for (ids, spans), group in groupby(filter(has_query, cases), lambda case: (case.ids, case.spans)):
        queries = tuple(query_of(form, case) for case in group)
        for span in spans:
            prefix, suffix = _kept(ids, 0, span[0], spans), _kept(ids, span[1], len(ids), spans)
            if prefix and suffix:
                yield Example(prefix, ids[slice(*span)], suffix, queries)


def _kept(ids: tuple[int, ...], start: int, end: int, spans: tuple[Interval, ...]) -> tuple[int, ...]:
    return tuple(ids[at] for at in range(start, end) if not any(first <= at < last for first, last in spans))


def _length(example: Example) -> int:
    return len(example.prefix) + len(example.span) + len(example.suffix)
