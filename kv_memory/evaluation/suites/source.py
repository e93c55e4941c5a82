"""What every suite is given: the model's chat format, a seed, the longest case, the split, and where the data lies."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.cases import Case
from kv_memory.synthetic.values import Split

TRAINED = 0.4
"""Share of the conversations that erasers are trained on."""


@dataclass(frozen=True)
class Source:
    """The settings of a suite."""

    form: ChatFormat
    seed: int = 0
    longest: int = 8192
    """Largest number of tokens of a case, with what is read after its context."""
    data: Path | None = None
    """Folder with the data sets' files; None where there is none."""
    split: Split | None = "test"
    """Conversations that there are: those that erasers are trained on, or those that figures are reported of; None for
    both."""

    def rng(self, *parts: object) -> Random:
        """Return a generator of random numbers that depends on the seed and these parts alone."""
        return Random(":".join(map(str, (self.seed, *parts))))

    def records(self, name: str, origin: str) -> list[dict[str, Any]]:
        """Return the records of a file of JSON lines, plain or gzip, shuffled by the seed.

        `origin`: where the data set comes from, for the error. Raises KVMemoryError where the file is not there.
        """
        found = [json.loads(line) for line in self.text(name, origin).splitlines() if line.strip()]
        self.rng(name).shuffle(found)
        return found

    def text(self, name: str, origin: str) -> str:
        """Return the text of a file, plain or gzip; errors as `records`."""
        folder = self.data
        for path in () if folder is None else (folder / f"{name}.gz", folder / name):
            if path.is_file():
                raw = path.read_bytes()
                return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        where = "no folder with data was given" if folder is None else f"it is not in {folder}"
        raise KVMemoryError(
            f"This suite reads {name} ({origin}), and {where}; give --data or set KV_MEMORY_DATA to a folder that has "
            "it."
        )

    def holds(self, conversation: str) -> bool:
        """Return whether a conversation is of this split, which its name alone decides, whatever the seed."""
        place = int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:8]) / 2**64
        return self.split in (None, "train" if place < TRAINED else "test")

    def fits(self, case: Case, answer: int = 128) -> bool:
        """Return whether a case is of this split and, with `answer` tokens for the answer, no longer than `longest`."""
        if not self.holds(case.conversation):
            return False
        tail = max(len(case.tail), len(case.corrected or ()))
        return len(case.ids) + tail + max(len(case.scored or ()), answer) <= self.longest


Suite = Callable[[Source], Iterator[Case]]
"""A source of cases. It yields them in an order that the seed decides, groups in turns, and leaves out those that do
not fit; each has a `suite`, a `name` and a `conversation`."""


def in_turns(*groups: Iterable[Case]) -> Iterator[Case]:
    """Yield a case of each group in turn, until all groups are at their end."""
    for turn in zip_longest(*groups):
        yield from (case for case in turn if case is not None)
