"""Facts of a conversation, as effects of its turns, and the exact answer to a question about them.

Replaying the effects in order, with or without some turn, gives the state that answers are read from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

UNKNOWN = "unknown"
"""The answer where the conversation does not say."""

USER = "user"
"""The id of the person who speaks: "my seat", "my name"."""

Path = tuple[str, ...]
"""Keys that lead to a value inside a record; most often one."""

Form = Literal["capitals", "small", "call me", "begin with", "end with", "quote", "bracket", "plain"]
"""Ways to answer that a user may ask for; also the sections of the wordings that ask for them."""


@dataclass(frozen=True)
class Fact:
    """The effect of a text that gives a value to a field of a thing, from here on."""

    id: str
    path: Path
    value: str


@dataclass(frozen=True)
class Claim:
    """The effect of an assistant's statement. It counts where no text says otherwise."""

    id: str
    path: Path
    value: str


@dataclass(frozen=True)
class Focus:
    """The effect of a text about one thing: later text may say "it", or "that order". None: about several things, so
    that either would be unclear."""

    id: str | None
    noun: str | None = None


@dataclass(frozen=True)
class Listing:
    """The effect of a list of things of one kind: later text may say "the second order"."""

    noun: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Refer:
    """The effect of a text about a thing that it does not name: "it"; with a noun, the latest of that kind; with a
    place, counted from 0, the one at that place of the latest list of that kind."""

    path: Path
    value: str
    noun: str | None = None
    place: int | None = None


@dataclass(frozen=True)
class Order:
    """The effect of a text that orders one answer to every later question; the model obeys."""

    answer: str


@dataclass(frozen=True)
class Wish:
    """The effect of a user who wants answers in this form. A later wish replaces an earlier one."""

    form: Form
    text: str = ""


Effect = Fact | Claim | Focus | Listing | Refer | Order | Wish


@dataclass(frozen=True)
class Question:
    """A question about one field of one thing; with `link`, of the thing whose id is the value of that field."""

    id: str
    path: Path
    link: Path | None = None


@dataclass
class State:
    """The facts, claims and references that are known after some turns were read."""

    facts: dict[tuple[str, Path], str] = field(default_factory=dict)
    claims: dict[tuple[str, Path], str] = field(default_factory=dict)
    focus: str | None = None
    latest: dict[str, str | None] = field(default_factory=dict)
    """Thing that "that order" means, by kind."""
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unclear: set[Path] = field(default_factory=set)
    """Fields that an unclear "it" was given: questions about them have no exact answer."""
    order: str | None = None
    wish: Wish | None = None

    def apply(self, effects: Iterable[Effect]) -> None:
        """Apply the effects of one turn."""
        for effect in effects:
            match effect:
                case Fact(id, path, value):
                    self.facts[id, path] = value
                case Claim(id, path, value):
                    self.claims[id, path] = value
                case Focus(id, noun):
                    self.focus = id
                    if noun is not None:
                        self.latest[noun] = id
                case Listing(noun, ids):
                    self.lists[noun] = ids
                case Refer(path, value):
                    thing = self._meant(effect)
                    if thing is None:
                        self.unclear.add(path)
                    else:
                        self.facts[thing, path] = value
                case Order(answer):
                    self.order = answer
                case Wish():
                    self.wish = effect

    def _meant(self, refer: Refer) -> str | None:
        if refer.noun is None:
            return self.focus
        if refer.place is None:
            return self.latest.get(refer.noun)
        ids = self.lists.get(refer.noun, ())
        return ids[refer.place] if -len(ids) <= refer.place < len(ids) else None

    def value(self, id: str, path: Path) -> str | None:
        """Return the value that texts give, or else that the assistant gave; None where neither does."""
        return self.facts.get((id, path), self.claims.get((id, path)))

    def look_up(self, question: Question) -> str | None:
        """Return the value of a question's field, `UNKNOWN` where nothing gives it; None where it is unclear."""
        thing: str | None = question.id
        if question.link is not None:
            if question.link in self.unclear:
                return None
            thing = self.value(question.id, question.link)
        if question.path in self.unclear:
            return None
        return UNKNOWN if thing is None else self.value(thing, question.path) or UNKNOWN

    def answer(self, question: Question) -> str | None:
        """Return the exact answer in the form that it must have; None where it is unclear."""
        if self.order is not None:
            return self.order
        value = self.look_up(question)
        return value if value is None or self.wish is None else in_form(value, self.wish)


_FORMS: dict[Form, Callable[[str, str], str]] = {
    "capitals": lambda answer, _: answer.upper(),
    "small": lambda answer, _: answer.lower(),
    "call me": lambda answer, name: f"{answer}, {name}",
    "begin with": lambda answer, word: f"{word} {answer}",
    "end with": lambda answer, word: f"{answer} {word}",
    "quote": lambda answer, _: f'"{answer}"',
    "bracket": lambda answer, _: f"[{answer}]",
    "plain": lambda answer, _: answer,
}


def in_form(answer: str, wish: Wish) -> str:
    """Return the answer in the form that the user wants."""
    return _FORMS[wish.form](answer, wish.text)


def replay(turns: Sequence[Sequence[Effect]], without: int | None = None) -> State:
    """Return the state after all turns, or after all but the one at index `without`."""
    state = State()
    for index, effects in enumerate(turns):
        if index != without:
            state.apply(effects)
    return state
