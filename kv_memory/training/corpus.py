"""Stage 1, span-neighbour pre-training on any text: a chunk is inserted or taken from the text and erased.

The eraser is to predict the text around the gap and the text that follows, as never-saw would (arXiv 2606.17034,
"span-neighbor pre-training"; there the chunk is inserted and the text around it retrieved).
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from kv_memory.engines.base import Tokenizer
from kv_memory.errors import KVMemoryError
from kv_memory.training.batch import Example, Query

NEIGHBOURS, CONTINUED = 24, 48
"""Number of tokens on each side of the gap that a query repeats, and number of tokens of the text's continuation."""
INSERTED = 0.6
"""Share of spans that are a chunk from elsewhere; the others are part of the text, so that it refers to them."""
SPANS = (4, 256)
_SUFFIXES = (".txt", ".md", ".jsonl", ".txt.gz", ".jsonl.gz")


def read_texts(source: str | Path, limit: int = 20_000_000) -> list[str]:
    """Read the documents of a file or folder (.txt, .md, .jsonl with a "text" each, also gzipped) or of a dataset's
    name.

    At most about `limit` characters. Raises KVMemoryError where there is no text.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return _dataset(str(source), limit)
    files = sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES)) if path.is_dir() else [path]
    texts: list[str] = []
    left = limit
    for file in files:
        for text in _documents(file):
            texts.append(text[:left])
            left -= len(text)
            if left <= 0:
                return texts
    if not any(map(str.strip, texts)):
        raise KVMemoryError(
            f'{path} holds no text; give a text file, a .jsonl with a "text" in each line, or a folder.'
        )
    return texts


def _documents(file: Path) -> Iterator[str]:
    opened: Any = gzip.open if file.name.endswith(".gz") else open
    with opened(file, "rt", encoding="utf-8") as lines:
        if ".jsonl" not in file.name:
            yield lines.read()
            return
        for number, line in enumerate(lines, 1):
            try:
                yield str(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise KVMemoryError(f'{file}, line {number}, is not JSON with a "text": {error}.') from error


def _dataset(name: str, limit: int) -> list[str]:
    try:
        from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]  # optional

        rows: Any = load_dataset(name, split="train", streaming=True)
    except Exception as error:  # whatever the library raises for a name that it cannot load
        raise KVMemoryError(
            f"{name!r} is neither a file or folder here nor a dataset that can be loaded ({type(error).__name__})."
        ) from error
    texts: list[str] = []
    for row in rows:
        texts.append(str(row["text"]))
        limit -= len(texts[-1])
        if limit <= 0:
            break
    return texts


class TextExamples:
    """The source of stage 1 examples, drawn from tokenized texts."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], head: Sequence[int] = ()) -> None:
        """Tokenize the texts; `head`: tokens that every context of the model begins with.

        Raises KVMemoryError if there are too few tokens.
        """
        joined = [token for text in texts for token in tokenizer.encode(text, special=False)[0]]
        self.ids = tuple(joined)
        self.head = tuple(head)
        self.shortest = 2 * (NEIGHBOURS + CONTINUED)
        if len(self.ids) < 4 * self.shortest:
            raise KVMemoryError(f"The text has only {len(self.ids):,} tokens; give at least {4 * self.shortest:,}.")

    def draw(self, rng: Random, tokens: int) -> Example:
        """Draw an example with a context of about this many tokens."""
        tokens = max(self.shortest, min(tokens, len(self.ids) // 2))
        span = min(_log_uniform(rng, *SPANS), tokens // 3)
        inserted = rng.random() < INSERTED
        length = tokens - span if inserted else tokens
        start = rng.randrange(len(self.ids) - length - CONTINUED)
        text = self.ids[start : start + length + CONTINUED]
        at = rng.randint(NEIGHBOURS, length - NEIGHBOURS - (0 if inserted else span))
        if inserted:
            elsewhere = rng.randrange(len(self.ids) - span)
            chunk, after = self.ids[elsewhere : elsewhere + span], text[at:length]
        else:
            chunk, after = text[at : at + span], text[at + span : length]
        around = text[at - NEIGHBOURS : at] + after[:NEIGHBOURS]
        queries = (_query(around, "neighbours"), _query(text[length:], "continuation"))
        return Example(self.head + text[:at], chunk, after, queries)


def _query(ids: tuple[int, ...], kind: str) -> Query:
    return Query(ids, (1.0,) * len(ids), kind)


def _log_uniform(rng: Random, low: int, high: int) -> int:
    return int(low * math.exp(rng.random() * math.log(high / low)))
