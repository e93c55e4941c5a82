"""Sources for the tests of suites: a tiny tokenizer, and data files made up on the spot or the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.source import Source, Suite
from kv_memory.testing.chat import CHATML, tiny_tokenizer
from tests.data import FOLDER

LONGEST = 1_000_000
"""A token is a byte here: cases are some four times as long as a model's own."""


def source(data: Path | None, seed: int = 0, template: str = CHATML, longest: int = LONGEST) -> Source:
    """The source over a folder, for the tiny tokenizer; it has all conversations of both splits."""
    return Source(ChatFormat(HFTokenizer(tiny_tokenizer(template))), seed, longest, data, split=None)


def real(*names: str) -> Path:
    """The folder with these data files; the test is skipped where one is missing."""
    for name in names:
        if not (FOLDER / f"{name}.gz").is_file():
            pytest.skip(f"{name}.gz is not in {FOLDER}")
    return FOLDER


def write(folder: Path, name: str, records: Iterable[Mapping[str, Any]]) -> None:
    (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def first(suite: Suite, given: Source, count: int) -> list[Case]:
    return list(islice(suite(given), count))


def erased(case: Case, given: Source) -> list[str]:
    """The text of each span."""
    return [text(case.ids[start:end], given) for start, end in case.spans]


def text(ids: Sequence[int], given: Source) -> str:
    return given.form._tokenizer.decode(list(ids))
