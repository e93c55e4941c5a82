"""The names, ids and values that worlds are made of.

There are very many on purpose: a model can only answer by copying. Words, names and ids of the two splits never meet:
each string belongs to one of them by its checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, TypeVar
from zlib import crc32

from kv_memory.synthetic.vocabulary import (
    CITIES,
    CODAS,
    ENGLISH,
    FIRST_NAMES,
    HEADS,
    ONSETS,
    STATUSES,
    VOWELS,
)

Split = Literal["train", "test"]
Scalar = str | int | float | bool
Option = TypeVar("Option")

_ALNUM = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_DIGITS = "0123456789"
_HEX = "0123456789abcdef"
_SYLLABLES = [onset + vowel + coda for onset in ONSETS for vowel in VOWELS for coda in CODAS]
_IDENT_STYLES = (
    "prefix",
    "serial",
    "serial",
    "tagged",
    "flight",
    "flight",
    "alnum",
    "alnum",
    "digits",
    "user",
    "noun",
    "hex",
    "name",
    "word",
    "words",
    "short",
)
KINDS = tuple(dict.fromkeys(HEADS.values()))
"""The kinds of values."""


def belongs(text: str, split: Split) -> bool:
    """Return whether a string belongs to this split."""
    return (crc32(text.encode()) % 16 == 0) == (split == "test")


_ENGLISH: dict[Split, tuple[str, ...]] = {
    "train": tuple(word for word in ENGLISH if belongs(word, "train")),
    "test": tuple(word for word in ENGLISH if belongs(word, "test")),
}


class Values:
    """Random strings and scalars of one split."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self._kinds: dict[str, Callable[[], Scalar]] = {
            "status": lambda: self.pick(STATUSES) if rng.random() < 0.5 else self.english(),
            "date": lambda: f"{rng.randint(1950, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            "time": lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}" + self.pick((":00", "", ":30")),
            "moment": lambda: (
                f"{self.value('date')}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
            ),
            "price": lambda: round(rng.uniform(1, 2000), 2) if rng.random() < 0.4 else rng.randint(5, 9999),
            "amount": lambda: rng.randint(-5000, 5000),
            "count": lambda: rng.randint(0, 10 ** rng.randint(1, 3)),
            "name": lambda: self.name() if rng.random() < 0.6 else self.pick(FIRST_NAMES),
            "email": lambda: (
                f"{self.pick(FIRST_NAMES).lower()}.{self.word()}@{self.pick(('example', self.word()))}.com"
            ),
            "phone": lambda: f"+{rng.randint(1, 99)} {self.digits(3)} {self.digits(4)}",
            "city": lambda: self.pick(CITIES) if rng.random() < 0.5 else self.word().capitalize(),
            "airport": lambda: "".join(rng.choices(_LETTERS, k=3)),
            "code": lambda: self.ident(self.pick(("flight", "alnum", "hex", "short")), "x"),
            "digits": lambda: self.digits(rng.randint(2, 7)),
            "phrase": lambda: " ".join(self.any_word() for _ in range(rng.randint(2, 3))),
            "word": self.any_word,
            "flag": lambda: rng.random() < 0.5,
            "url": lambda: f"https://{self.word()}.com/{self.any_word()}",
            "percent": lambda: f"{rng.randint(1, 99)}%",
            "snake": lambda: f"{self.any_word()}_{self.english()}",
        }

    def pick(self, options: Sequence[Option]) -> Option:
        """Draw one of the options, evenly."""
        return options[int(self.rng.random() * len(options))]

    def digits(self, count: int) -> str:
        """Draw a string of decimal digits that does not start with 0."""
        return str(self.rng.randrange(10 ** (count - 1), 10**count))

    def word(self) -> str:
        """Draw a pronounceable lower-case word that means nothing."""
        while True:
            text = "".join(self.rng.choices(_SYLLABLES, k=2 if self.rng.random() < 0.85 else 3))
            if belongs(text, self.split):
                return text

    def english(self) -> str:
        """Draw a common English word."""
        return self.pick(_ENGLISH[self.split])

    def any_word(self) -> str:
        """Draw an English word or an invented one."""
        return self.english() if self.rng.random() < 0.5 else self.word()

    def first_name(self) -> str:
        """Draw a first name."""
        return self.pick(FIRST_NAMES) if self.rng.random() < 0.5 else self.word().capitalize()

    def name(self) -> str:
        """Draw a person's name: a first name and an invented surname."""
        return f"{self.pick(FIRST_NAMES)} {self.word().capitalize()}"

    def ident_style(self) -> str:
        """Draw a way to write ids; records of one kind share it."""
        style = self.pick(_IDENT_STYLES)
        match style:
            case "flight" if self.rng.random() < 0.7:
                return "flight:" + "".join(self.rng.choices(_LETTERS, k=3))
            case "serial":
                head = self.pick(("", "", "#", "".join(self.rng.choices(_LETTERS, k=self.rng.randint(1, 3)))))
                mark = self.pick(("", "-", "_")) if head else ""
                return f"serial:{head}{mark}{self._own(lambda: self.digits(self.rng.randint(2, 5)))}"
            case "tagged":
                return f"tagged:{self.any_word()}_{self.any_word()}"
        return style

    def ident(self, style: str, noun: str) -> str:
        """Draw an id in this style for a thing of this kind."""
        style, _, prefix = style.partition(":")
        draw = self._ident_styles()[style]
        if style == "serial":  # few ids share its first digits, which are the split's own
            return draw(prefix, noun)
        return self._own(lambda: draw(prefix, noun))

    def _own(self, draw: Callable[[], str]) -> str:
        while True:
            text = draw()
            if belongs(text, self.split):
                return text

    def _ident_styles(self) -> dict[str, Callable[[str, str], str]]:
        rng = self.rng
        return {
            "prefix": lambda prefix, noun: f"{noun[:3].upper()}-{self.digits(rng.randint(3, 6))}",
            "flight": lambda prefix, noun: (
                (prefix or "".join(rng.choices(_LETTERS, k=2))) + "".join(rng.choices(_DIGITS, k=3))
            ),
            "serial": lambda prefix, noun: prefix + "".join(rng.choices(_DIGITS, k=2 if rng.random() < 0.8 else 3)),
            "tagged": lambda prefix, noun: f"{prefix}_{self.digits(rng.choice((3, 4, 7)))}",
            "alnum": lambda prefix, noun: "".join(rng.choices(_ALNUM, k=6)),
            "digits": lambda prefix, noun: self.digits(rng.randint(4, 8)),
            "user": lambda prefix, noun: f"{self.pick(FIRST_NAMES).lower()}_{self.word()}_{self.digits(4)}",
            "noun": lambda prefix, noun: f"{noun}_{self.digits(rng.randint(3, 7))}",
            "hex": lambda prefix, noun: "".join(rng.choices(_HEX, k=4)) + "-" + "".join(rng.choices(_HEX, k=4)),
            "name": lambda prefix, noun: self.name(),
            "words": lambda prefix, noun: f"{self.any_word().capitalize()} {self.word().capitalize()}",
            "short": lambda prefix, noun: f"{self.pick(_LETTERS)}{rng.randint(10, 99)}",
            "word": lambda prefix, noun: self.word(),
        }

    def value(self, kind: str) -> Scalar:
        """Draw a value of this kind, as JSON writes it."""
        return self._kinds[kind]()

    def fill(self, text: str) -> str:
        """Return the text with a word in place of each `<w>`."""
        while "<w>" in text:
            text = text.replace("<w>", self.any_word(), 1)
        return text


def as_text(value: Scalar) -> str:
    """Return the value as JSON writes it, without a string's quotes: the form of an answer."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
