"""Conflicting needles in real text: two sentences about one thing with different values, one of which is erased.

The text is of children's books, in user messages of some 700 tokens that the assistant answers with a word. One needle
is true and kept; the other one, which comes later or earlier, is stale or hostile and is erased: a message of its own,
or characters within a message. The user then asks for the value.

A conversation has a place in the books, a thing and its two values. It gives a case for each length and for each depth
of the erased needle. The length is that of all that is read and answered; at least `AFTER` tokens of text follow the
erased needle, so that the deepest place in a short text is less deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, product
from typing import Any

from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.spans import CharRange
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.source import Source

SUITE = "needle"
FILE = "text_childrens_books.txt"
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
DEPTHS = (0.1, 0.5, 0.9)
CONVERSATIONS = 200
AFTER, PASSAGE, ANSWER = 300, 700, 128
"""Number of tokens: of text after the erased needle, at least; of a passage, at most; for the answer."""
REPLY = "Read."
_FILLED = 0.9 * PASSAGE  # what sentences fill of one
_LONGEST_SENTENCE = 600
"""Characters of a sentence, at most: a longer one is left out, so that needles are where they are asked for."""
_PLACES = "lighthouse", "windmill", "old library", "boathouse", "bell tower", "tea house", "glass house", "stone bridge"
_NAMES = "Amelia", "Barnaby", "Cordelia", "Desmond", "Euphemia", "Ferdinand", "Griselda", "Horatio"
_CITIES = "Lisbon", "Prague", "Cairo", "Oslo", "Havana", "Lima", "Dublin", "Kyoto", "Boston", "Geneva"
_GOODS = "pepper", "velvet", "amber", "copper", "saffron", "paper", "marble", "honey", "silver", "cotton"
_NUMBERS = tuple(map(str, range(1001, 9999, 7)))
_NUMBER, _CITY, _WORD = (f"Answer with the {only} only." for only in ("number", "city", "word"))
_THINGS = (
    ("The passcode of the {} is {}.", f"What is the passcode of the {{}}? {_NUMBER}", _PLACES, _NUMBERS),
    ("The telephone number of {} is {}.", f"What is the telephone number of {{}}? {_NUMBER}", _NAMES, _NUMBERS),
    ("The home of {} is now in {}.", f"In which city is the home of {{}}? {_CITY}", _NAMES, _CITIES),
    ("The ship of Captain {} carries {}.", f"What does the ship of Captain {{}} carry? {_WORD}", _NAMES, _GOODS),
)
"""Needle, question, subjects and values."""


def needle(source: Source) -> Iterator[Case]:
    """Yield a case of each length and depth of one conversation after the other.

    Raises KVMemoryError where the text is missing.
    """
    text = source.text(FILE, "children's books of Project Gutenberg")
    lengths = [length for length in LENGTHS if length <= source.longest]
    for number in filter(lambda number: source.holds(str(number)), range(CONVERSATIONS if lengths else 0)):
        hay = _Haystack.drawn(source, text, number, max(lengths))
        for turn, (length, depth) in enumerate(product(lengths, DEPTHS), number):
            case = hay.case(length, depth, alone=turn % 2 == 0)
            if case is not None and replace(source, longest=length).fits(case):
                yield case


@dataclass(frozen=True)
class _Haystack:
    """Sentences of a book with their number of tokens, and the two needles that go into them."""

    source: Source
    number: int
    sentences: Sequence[str]
    sizes: Sequence[int]
    subject: str
    kept: str
    erased: str
    """Values of the two needles."""

    @classmethod
    def drawn(cls, source: Source, text: str, number: int, tokens: int) -> _Haystack:
        """Draw needles and a place in the text, and read as many tokens from there, if the text has them."""
        rng = source.rng(SUITE, number)
        start = max(0, text.find("\n\n", rng.randrange(len(text))))
        sentences, sizes = [], []
        for sentence in _sentences(text[start : start + 8 * tokens]):
            sentences.append(sentence)
            said = Message("user", f" {sentence}")  # as it follows another one
            sizes.append(source.form.tokens_in(said, Cuts(((0, len(sentence) + 1),))))
            tokens -= sizes[-1]
            if tokens <= 0:
                break
        _, _, subjects, values = _THINGS[number % len(_THINGS)]
        return cls(source, number, sentences, sizes, rng.choice(subjects), *rng.sample(values, 2))

    def case(self, length: int, depth: float, alone: bool) -> Case | None:
        """Return the case; None where there is too little text. `alone`: the erased needle is a message of its own."""
        needle = _THINGS[self.number % len(_THINGS)][0]
        kept, erased = needle.format(self.subject, self.kept), needle.format(self.subject, self.erased)
        name = f"{self.number}, {length} tokens, depth {depth}"
        rng = self.source.rng(SUITE, name)
        count, at = self._places(length, depth)
        if at is None:
            return None
        first, second = sorted((at, other := rng.randint(0, count)))
        one, two = (erased, kept) if at < other else (kept, erased)
        said = [*self.sentences[:first], one, *self.sentences[first:second], two, *self.sentences[second:count]]
        sizes = [*self.sizes[:first], 0, *self.sizes[first:second], 0, *self.sizes[second:count]]
        at = first if one is erased else second + 1
        messages, target = _messages(said, sizes, at, alone)
        return self._asked(
            Transcript(self.source.form, messages),
            "message" if alone else "characters",
            target,
            name=name,
            groups={"tokens": length, "depth": depth, "erased": "first" if one is erased else "last"},
        )

    def _asked(self, read: Transcript, kind: str, target: str | CharRange, **facts: Any) -> Case:
        needle, question, _, _ = _THINGS[self.number % len(_THINGS)]
        return read.question(
            kind,
            [target],
            question.format(self.subject),
            named=f'the sentence "{needle.format(self.subject, self.erased)}"',
            answer=self.kept,
            aliases=(),
            wrong=(self.erased,),
            suite=SUITE,
            conversation=str(self.number),
            **facts,
        )

    def _places(self, length: int, depth: float) -> tuple[int, int | None]:
        """Return how many sentences fill a length, and before which one the erased needle comes, if there is one."""
        turn = self._turn
        room = length - self._room - 3 * turn  # the needle's own message, and the passages around it
        ends = list(accumulate(self.sizes, initial=0))
        count = sum(end + turn * (end // _FILLED) <= room for end in ends) - 1
        if count < 1 or count == len(self.sentences) or ends[count] <= AFTER:
            return count, None
        wanted = min(depth * ends[count], ends[count] - AFTER)
        return count, sum(end <= wanted for end in ends) - 1

    @cached_property
    def _room(self) -> int:
        """Number of tokens for the needles, the correction, the question and the answer."""
        needle = _THINGS[self.number % len(_THINGS)][0].format(self.subject, self.kept)
        read = Transcript(self.source.form, [{"role": "user", "content": needle, "id": "p0"}])
        asked = self._asked(read, "message", "p0")
        return 2 * len(asked.ids) + len(asked.corrected or ()) + ANSWER

    @cached_property
    def _turn(self) -> int:
        """Number of tokens around a passage, with those of the reply to it."""
        turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": REPLY}]
        return len(Transcript(self.source.form, turn * 2).ids) - len(Transcript(self.source.form, turn).ids)


def _messages(
    said: Sequence[str], sizes: Sequence[int], erased: int, alone: bool
) -> tuple[list[dict[str, str]], str | CharRange]:
    """Return sentences in passages as messages, and the sentence at one index as a target."""
    passages: list[list[int]] = [[]]
    for place in range(len(said)):
        full = sum(sizes[i] for i in passages[-1]) + sizes[place] > PASSAGE
        if passages[-1] and (full or (alone and erased in (place, passages[-1][-1]))):
            passages.append([])
        passages[-1].append(place)
    messages, target = [], ""
    for number, passage in enumerate(passages):
        content, name = " ".join(said[place] for place in passage), f"p{number}"
        messages += [{"role": "user", "content": content, "id": name}, {"role": "assistant", "content": REPLY}]
        if erased in passage:
            start, target = sum(len(said[place]) + 1 for place in passage[: passage.index(erased)]), name
    return messages, target if alone else CharRange(message=target, start=start, end=start + len(said[erased]))


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        for found in re.finditer(r".+?[.!?][^\w\s]*(?=\s|$)|.+$", " ".join(paragraph.split())):
            if len(found[0]) <= _LONGEST_SENTENCE:
                yield found[0].strip()
