"""Paragraphs with questions: as numbered documents in one text, as pages that a tool returns, as what a user pastes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN
from kv_memory.synthetic.facts import UNKNOWN
from pocket_training.corpus import Document, RealText, sentence_end
from pocket_training.dialogue import REPLIES, Dialogue

_TOOLS = ("read_page", "search", "get_document", "find_passages")
_REQUESTS = ("Look it up.", "Search for it, please.", "Read these.", "I have some questions about a text.")
_FOLLOWS = ('Which word follows "{}"?', 'What is the next word after "{}"?', 'Complete with one word: "{} ..."')
_FIVE_WORDS = re.compile(r"\b(\w+(?: \w+){3}) (\w+)")
_A_QUESTION = 40
"""Number of tokens of a question with its answer."""


class Reader:
    """The writer of paragraphs, and questions about them, into a conversation."""

    def __init__(self, talk: Dialogue, text: RealText) -> None:
        self.talk = talk
        self.text = text
        self.rng = talk.rng
        self.read_texts: list[str] = []
        self.open: list[tuple[str, str]] = []
        """Questions that the text answers."""
        self.impossible: list[tuple[str, str]] = []

    def read(self, room: float) -> None:
        """Add paragraphs and questions of about `room` tokens."""
        rng = self.rng
        count = rng.choice((1, 1, 2, 3, 5, 8))
        questions = rng.randint(1, max(1, min(2 * count + 2, int(room / 2 / _A_QUESTION))))
        characters = (room - questions * _A_QUESTION - 20 * count) * CHARACTERS_PER_TOKEN
        documents = self._draw(count, characters)
        erased = rng.randrange(len(documents)) if rng.random() < (0.15 if len(documents) > 1 else 0.04) else None
        form = rng.choice((self._together, self._pages, self._pastes))
        form(documents, erased)
        for _ in range(questions if self.open else 1):
            self._ask()

    def _draw(self, count: int, characters: float) -> list[Document]:
        rng, documents = self.rng, dict[str, Document]()
        while len(documents) < count and (not documents or characters > 250):
            longest = max(200, int(characters if rng.random() < 0.7 else rng.uniform(0.4, 1) * characters))
            if self.text.books and rng.random() < 0.2:
                document = quoted(rng, self.text.passage(rng, min(longest, 900)))
            else:
                document = shortened(rng.choice(self.text.documents), longest)
            # Another part of the same article could answer what its neighbour does not.
            if document.questions and document.title not in documents:
                documents[document.title] = document
                characters -= len(document.text) + 50
        return list(documents.values())

    def _together(self, documents: Sequence[Document], erased: int | None) -> None:
        """Add all in one text; an erased one is left out."""
        rng = self.rng
        heading = rng.choice(("Document {}: {}\n", "Document [{}](Title: {}) ", "[{}] {}\n", "# {}. {}\n\n"))
        parts = [heading.format(number, item.title) + item.text for number, item in enumerate(documents, 1)]
        kept = [place for place in range(len(documents)) if place != erased]
        content = "\n\n".join(parts[place] for place in kept)
        if rng.random() < 0.6:
            self._request()
            self.talk.call(rng.choice(_TOOLS), [({}, content)])
        elif content:
            self.talk.say("user", content)
        for place in kept:
            self._take_in(documents[place])

    def _pages(self, documents: Sequence[Document], erased: int | None) -> None:
        """Add a call for each, one after the other or all at once."""
        rng, name = self.rng, self.rng.choice(_TOOLS)
        self._request()
        pages = [({"title": item.title}, "" if place == erased else item.text) for place, item in enumerate(documents)]
        size = rng.choice((1, len(pages)))
        for start in range(0, len(pages), size):
            self.talk.call(name, pages[start : start + size])
            for place in range(start, start + size):
                if place != erased:
                    self._take_in(documents[place])
            if rng.random() < 0.3:
                self._ask()

    def _pastes(self, documents: Sequence[Document], erased: int | None) -> None:
        """Add a message of the user for each; an erased one is left out."""
        rng = self.rng
        titled, attached, replied = rng.random() < 0.4, rng.random() < 0.5, rng.random() < 0.5
        for place, item in enumerate(documents):
            if place == erased:
                continue
            content = f"{item.title}\n\n{item.text}" if titled else item.text
            self._take_in(item)
            if attached:
                self._ask(after=content + "\n\n")
            else:
                self.talk.say("user", content)
                if replied:
                    self.talk.say("assistant", rng.choice(REPLIES))

    def _request(self) -> None:
        if self.rng.random() < 0.6:
            self.talk.say("user", self.rng.choice(_REQUESTS))

    def _take_in(self, document: Document) -> None:
        self.read_texts.append(document.text)
        for item in document.questions:
            (self.impossible if item[1] == UNKNOWN else self.open).append(item)

    def _ask(self, after: str = "") -> None:
        draw = self.rng.random()
        if self.open and draw < 0.82:
            question, answer = self.rng.choice(self.open)
        elif self.impossible and draw < 0.93:
            question, answer = self.rng.choice(self.impossible)
        else:
            question, answer = self._foreign()
        if question[0].islower() and self.rng.random() < 0.3:
            question = question[0].upper() + question[1:] + "?"
        self.talk.ask(question, answer, after)

    def _foreign(self) -> tuple[str, str]:
        """Return a question about something else, of which nothing was read."""
        while True:
            question, answer = self.rng.choice(self.rng.choice(self.text.documents).questions or (("", ""),))
            if question and not any(answer in text for text in self.read_texts):
                return question, UNKNOWN


def shortened(document: Document, longest: int) -> Document:
    """Return the beginning of a paragraph, whole sentences, with the questions whose answers are all in it."""
    if len(document.text) <= longest:
        return document
    text = document.text[: sentence_end(document.text, 0, longest)].strip()
    kept = (item for item in document.questions if item[1] != UNKNOWN)
    questions = tuple(item for item in kept if text.count(item[1]) == document.text.count(item[1]))
    return Document(document.source, document.title, text, questions)


def quoted(rng: Random, text: str) -> Document:
    """Return prose with questions about its words: which one follows four others."""
    questions = []
    for _ in range(3):
        match = _FIVE_WORDS.search(text, rng.randrange(len(text) // 2 + 1))
        if match and text.count(match[1]) == 1:
            questions.append((rng.choice(_FOLLOWS).format(match[1]), match[2]))
    return Document("book", " ".join(text.split()[:3]), text, tuple(questions))
