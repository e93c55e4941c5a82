"""The space of names, ids and values that worlds are made of.

It is wide on purpose: a model can only answer by copying. Words, names and ids of the two splits never meet: each
string belongs to one of them by its checksum.
"""

from __future__ import annotations

from random import Random
from typing import Literal
from zlib import crc32

Split = Literal["train", "test"]
Scalar = str | int | float | bool

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl pr qu sh st th tr".split()
_VOWELS = "a e i o u a e i o ai ea io ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "th", "nd", "rk", "st", "ck"]
_SYLLABLES = [onset + vowel + coda for onset in _ONSETS for vowel in _VOWELS for coda in _CODAS]
_ALNUM = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_HEX = "0123456789abcdef"

FIRST_NAMES = (
    "Ada Amir Ana Anders Bea Ben Carla Chen Dana David Elif Emma Eva Farid Finn Grace Hana Hugo Ines Ivan Jae Jana Joel "
    "Juan Kai Kofi Lara Lena Liam Lin Luis Maja Marco Maria Mei Mia Mina Nadia Nils Noah Olga Omar Paula Petra Raj Rosa "
    "Sam Sara Sofia Tariq Theo Tom Uma Vera Wei Yara Yusuf Zoe Zoë René Jürgen Søren"
).split()
CITIES = (
    "Austin Berlin Boston Cairo Chicago Dallas Delhi Denver Dublin Geneva Houston Jakarta Kyoto Lagos Lima Lisbon London "
    "Madrid Miami Milan Montreal Nairobi Oslo Paris Porto Prague Quito Riga Rome Seattle Seoul Sofia Tokyo Toronto "
    "Vienna Warsaw Zurich"
).split()
STATUSES = (
    "open closed pending active paused shipped delivered cancelled confirmed approved rejected expired available full "
    "delayed queued draft ready failed running done blocked archived verified locked overdue paid unpaid refunded "
    "returned scheduled boarding gold silver bronze basic premium economy business red green blue black white high low "
    "medium urgent normal yes no none visa mastercard"
).split()
_IDENT_STYLES = ("prefix", "flight", "alnum", "digits", "user", "noun", "hex", "name", "word", "words", "short")
KINDS = (
    "status date time moment price count name email phone city code word phrase flag url percent amount digits".split()
)


def belongs(text: str, split: Split) -> bool:
    """Whether a string is one of this split's."""
    return (crc32(text.encode()) % 16 == 0) == (split == "test")


class Values:
    """Draws strings and scalars of one split."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split = split

    def pick(self, options: list[str] | tuple[str, ...] | str) -> str:
        """One of the options, evenly."""
        return options[int(self.rng.random() * len(options))]

    def digits(self, count: int) -> str:
        """A string of decimal digits that does not start with 0."""
        return str(self.rng.randrange(10 ** (count - 1), 10**count))

    def word(self) -> str:
        """A pronounceable lower-case word that means nothing."""
        while True:
            text = "".join(self.rng.choices(_SYLLABLES, k=2 if self.rng.random() < 0.8 else 3))
            if belongs(text, self.split):
                return text

    def name(self) -> str:
        """A person: a first name and an invented surname."""
        return f"{self.pick(FIRST_NAMES)} {self.word().capitalize()}"

    def ident_style(self) -> str:
        """A way to write ids; records of one kind share it."""
        return self.pick(_IDENT_STYLES)

    def ident(self, style: str, noun: str) -> str:
        """An id in this style for a thing of this kind."""
        while True:
            text = self._ident(style, noun)
            if belongs(text, self.split):
                return text

    def _ident(self, style: str, noun: str) -> str:
        rng = self.rng
        match style:
            case "prefix":
                return f"{noun[:3].upper()}-{self.digits(rng.randint(3, 6))}"
            case "flight":
                return "".join(rng.choices(_LETTERS, k=rng.randint(2, 3))) + "".join(rng.choices("0123456789", k=3))
            case "alnum":
                return "".join(rng.choices(_ALNUM, k=6))
            case "digits":
                return self.digits(rng.randint(4, 8))
            case "user":
                return f"{self.pick(FIRST_NAMES).lower()}_{self.word()}_{self.digits(4)}"
            case "noun":
                return f"{noun}_{self.digits(rng.randint(3, 7))}"
            case "hex":
                return "".join(rng.choices(_HEX, k=4)) + "-" + "".join(rng.choices(_HEX, k=4))
            case "name":
                return self.name()
            case "words":
                return f"{self.word().capitalize()} {self.word().capitalize()}"
            case "short":
                return f"{self.pick(_LETTERS)}{rng.randint(10, 99)}"
            case _:
                return self.word()

    def value(self, kind: str) -> Scalar:
        """A value of this kind, as it stands in JSON."""
        rng = self.rng
        match kind:
            case "status":
                return self.pick(STATUSES) if rng.random() < 0.7 else self.word()
            case "date":
                return f"{rng.randint(1950, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
            case "time":
                return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}" + (":00" if rng.random() < 0.5 else "")
            case "moment":
                return f"{self.value('date')}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
            case "price":
                return round(rng.uniform(1, 2000), 2) if rng.random() < 0.5 else rng.randint(5, 9999)
            case "count":
                return rng.randint(0, 999)
            case "name":
                return self.name() if rng.random() < 0.6 else self.pick(FIRST_NAMES)
            case "email":
                return (
                    f"{self.pick(FIRST_NAMES).lower()}.{self.word()}@{self.pick(('example', 'mail', self.word()))}.com"
                )
            case "phone":
                return f"+{rng.randint(1, 99)} {self.digits(3)} {self.digits(4)}"
            case "city":
                return self.pick(CITIES) if rng.random() < 0.5 else self.word().capitalize()
            case "code":
                return self.ident(self.pick(("flight", "alnum", "hex", "short")), "x")
            case "phrase":
                return " ".join([self.word(), *(self.word() for _ in range(rng.randint(1, 2)))])
            case "flag":
                return rng.random() < 0.5
            case "url":
                return f"https://{self.word()}.com/{self.word()}"
            case "percent":
                return f"{rng.randint(1, 99)}%"
            case "amount":
                return rng.randint(-5000, 5000)
            case "digits":
                return self.digits(rng.randint(2, 7))
            case _:
                return self.word()


def as_text(value: Scalar) -> str:
    """The value as it stands in JSON, without a string's quotes: the form of an answer."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
