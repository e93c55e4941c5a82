"""Stories in the manner of bAbI: people go to places, take things and put them down. Where all are is exact."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from kv_memory.synthetic.facts import UNKNOWN

MOVES = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
TAKES = ("got", "took", "grabbed", "picked up")
DROPS = ("dropped", "left", "discarded", "put down")
LINKS = ("After that", "Afterwards", "Following that", "Then")
PRONOUNS = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}
"""The people of the files."""
YES, NO = "yes", "no"
Deed = Literal["move", "take", "drop"]

_DEEDS: dict[str, Deed] = {
    **dict.fromkeys(MOVES, "move"),
    **dict.fromkeys(TAKES, "take"),
    **dict.fromkeys(DROPS, "drop"),
}
_LINE = re.compile(
    rf"(?:(?:{'|'.join(LINKS)}) )?(\w+)(?: and (\w+))? ({'|'.join(sorted(_DEEDS, reverse=True))}) the (\w+)"
)
_QUESTION = re.compile(r"(?:Where is|Is)(?: the)? (\w+)(?: in the (\w+))?")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a story: somebody does something."""

    text: str
    who: tuple[str, ...]
    """Names, or one of he, she, they."""
    deed: Deed
    what: str
    """The place or the thing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about where a person or thing is, or whether it is in `place`."""

    text: str
    about: str
    place: str = ""


@dataclass
class Story:
    """Lines and questions, in order."""

    steps: list[Line | Asked]
    pronouns: dict[str, str]
    """Pronoun (he or she) of each name."""

    @property
    def lines(self) -> list[Line]:
        """Return the lines without the questions."""
        return [step for step in self.steps if isinstance(step, Line)]


def parse(text: str) -> Story:
    """Parse a story of the files."""
    steps: list[Line | Asked] = []
    for item in text.split("\n"):
        sentence, _, rest = item.partition("\t")
        if not rest:
            match = _LINE.match(sentence)
            assert match, sentence
            first, second, verb, what = match.groups()
            steps.append(Line(sentence, (first, second) if second else (first,), _DEEDS[verb], what))
        else:
            asked = _QUESTION.match(sentence)
            assert asked, sentence
            steps.append(Asked(sentence.strip(), asked[1], asked[2] or ""))
    return Story(steps, PRONOUNS)


@dataclass
class Whereabouts:
    """The places of everybody and everything after the lines that were read; the last statement counts."""

    places: dict[str, str] = field(default_factory=dict)
    """Places of people, and of things that nobody has."""
    holders: dict[str, str] = field(default_factory=dict)
    latest: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that he, she or they means: the latest named."""
    doubtful: set[str] = field(default_factory=set)
    """Names about which the lines contradict each other, as they can where a line is missing."""

    def read(self, line: Line, pronouns: dict[str, str]) -> None:
        """Apply a line, which is true from here on."""
        who = line.who
        if who[0] in ("he", "she", "they"):
            who = self.latest.get(who[0], ())
        else:
            self.latest.update({pronouns[name]: (name,) for name in who})
            if len(who) > 1:
                self.latest["they"] = who
        for name in who:
            if line.deed == "move":
                self.places[name] = line.what
                self.doubtful.discard(name)
            elif line.deed == "take":
                self._take(name, line.what)
            else:
                self._drop(name, line.what)

    def where(self, about: str) -> str | None:
        """Return the place of a person or a thing; unknown if it was not said, None if that is in doubt."""
        about = self.holders.get(about, about)
        return None if about in self.doubtful else self.places.get(about, UNKNOWN)

    def answer(self, asked: Asked) -> str | None:
        """Return the right answer, None if that is in doubt."""
        place = self.where(asked.about)
        if place in (None, UNKNOWN) or not asked.place:
            return place
        return YES if place == asked.place else NO

    def _take(self, name: str, thing: str) -> None:
        here, there = self.where(name), self.where(thing)
        if here == UNKNOWN and there is not None:
            self.places[name] = there  # it was taken there
        elif there not in (here, UNKNOWN):
            self.doubtful.add(name)
        self.doubtful.discard(thing)
        self.holders[thing] = name

    def _drop(self, name: str, thing: str) -> None:
        self.holders.pop(thing, None)
        self.places.pop(thing, None)
        self.doubtful.discard(thing)
        match self.where(name):
            case None:
                self.doubtful.add(thing)
            case place if place != UNKNOWN:
                self.places[thing] = place
