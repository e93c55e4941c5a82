"""Real text for the mix, so that it is not noise to the model. The data is not part of the package.

About a tenth of the paragraphs and stories is kept for evaluation: which ones, their checksum says.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from kv_memory.synthetic.facts import UNKNOWN

BOOKS = "text_childrens_books.txt.gz"
SQUAD = "squad2_half_dev.jsonl.gz"
NQ = "nq_open_oracle.jsonl.gz"
BABI = {
    1: "babi/qa1_single-supporting-fact_train.txt.gz",
    2: "babi/qa2_two-supporting-facts_train.txt.gz",
    6: "babi/qa6_yes-no-questions_train.txt.gz",
    11: "babi/qa11_basic-coreference_train.txt.gz",
    12: "babi/qa12_conjunction_train.txt.gz",
    13: "babi/qa13_compound-coreference_train.txt.gz",
}
"""The file of each task."""


@dataclass(frozen=True, slots=True)
class Document:
    """A paragraph with questions and their answers: strings from the paragraph, or unknown."""

    source: str
    """Name of the source: squad or nq."""
    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RealText:
    """Real text of one split; empty without data."""

    books: str = ""
    documents: tuple[Document, ...] = ()
    stories: tuple[tuple[int, str], ...] = ()
    """bAbI stories, each with the number of its task: a line or a question with its answer in each line of text."""

    @classmethod
    def load(cls, folder: Path | None, kept: bool = False, limit: int = 6_000_000) -> RealText:
        """Read the training part of this folder, or with `kept` the evaluation part; nothing without a folder.

        `limit`: number of characters of the books to read for training.
        """
        if folder is None:
            return cls()
        return cls(
            "" if kept else _books(folder, limit),
            tuple(item for item in _documents(folder) if is_kept(item.text) == kept),
            tuple((task, story) for task in BABI for story in _stories(folder, task) if is_kept(story) == kept),
        )

    def passage(self, rng: Random, longest: int) -> str:
        """Draw some prose of about 60 to `longest` characters: whole sentences, mostly from the books."""
        if self.documents and (not self.books or rng.random() < 0.2):
            text = self.documents[int(rng.random() * len(self.documents))].text
            start = 0
        else:
            text = self.books
            middle = int(rng.random() * max(1, len(text) - longest))
            paragraph = text.find("\n\n", middle, middle + longest)
            start = (paragraph if paragraph >= 0 else text.find("\n", middle)) + 1
        end = start + rng.randint(min(60, longest), longest)
        return text[start : sentence_end(text, start, end)].strip()


def is_kept(text: str) -> bool:
    """Return whether a paragraph or a story is for evaluation only."""
    return crc32(text.encode()) % 10 == 0


def chunks(text: str, size: int = 2000) -> Iterator[str]:
    """Return the text in pieces, for the tokenizer's training."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def sentence_end(text: str, start: int, end: int) -> int:
    """Return the last end of a sentence in the second half of start..end, else of a line or a word; `end` without
    any."""
    half = (start + end) // 2
    if end >= len(text):
        return len(text)
    dots = [text.rfind(dot, half, end) for dot in (". ", ".\n", "! ", "!\n", "? ", "?\n")]
    if max(dots) >= 0:
        return max(dots) + 1
    line = text.rfind("\n", half, end)
    return line if line >= 0 else max(text.rfind(" ", half, end), 0) or end


def _lines(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from lines


def _books(folder: Path, limit: int) -> str:
    with gzip.open(folder / BOOKS, "rt", encoding="utf-8") as file:
        return file.read(limit)


def _documents(folder: Path) -> Iterator[Document]:
    for line in _lines(folder / SQUAD):
        item = json.loads(line)
        asked = ((qa["question"].strip(), _answer(qa["answers"], item["context"])) for qa in item["qas"])
        questions = tuple((question, answer) for question, answer in asked if answer)
        yield Document("squad", item["title"].replace("_", " "), item["context"], questions)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(folder / NQ):
        item = json.loads(line)
        found.setdefault(item["ctxs"][0]["text"], []).append(item)
    for text, items in found.items():
        questions = tuple((item["question"], _answer(item["answers"], text)) for item in items)
        yield Document("nq", items[0]["ctxs"][0]["title"], text, questions)


def _answer(golds: list[str], text: str) -> str:
    """Return the shortest right answer that occurs in the text.

    Unknown if there is none to give, "" if none occurs.
    """
    if not golds:
        return UNKNOWN
    return min((gold for gold in golds if gold in text and any(map(str.isalnum, gold))), key=len, default="")


def _stories(folder: Path, task: int) -> Iterator[str]:
    story: list[str] = []
    for line in _lines(folder / BABI[task]):
        number, _, text = line.rstrip("\n").partition(" ")
        if number == "1" and story:
            yield "\n".join(story)
            story = []
        story.append(text)
    yield "\n".join(story)
