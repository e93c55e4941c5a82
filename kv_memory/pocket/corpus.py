"""Real text for the mix, so that it is not noise to the model. The data is not part of the package."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from random import Random

BOOKS = "text_childrens_books.txt.gz"


def load_text(folder: Path | None, limit: int = 6_000_000) -> str:
    """The first `limit` characters of the books in this folder; nothing without a folder."""
    if folder is None:
        return ""
    with gzip.open(folder / BOOKS, "rt", encoding="utf-8") as file:
        return file.read(limit)


class Passages:
    """Draws passages of a text; each call goes on from the random state that it is given."""

    def __init__(self, text: str, rng: Random, longest: int) -> None:
        self.text = text
        self.rng = rng
        self.longest = longest

    def __call__(self) -> str:
        """A passage of 60 to `longest` characters that starts at a line's begin."""
        start = self.text.find("\n", self.rng.randrange(max(1, len(self.text) - self.longest))) + 1
        return self.text[start : start + self.rng.randint(60, self.longest)].strip()


def chunks(text: str, size: int = 2000) -> Iterator[str]:
    """The text in pieces, for the tokenizer's training."""
    for start in range(0, len(text), size):
        yield text[start : start + size]
