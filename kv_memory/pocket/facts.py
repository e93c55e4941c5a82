"""What a conversation says, and the exact answer to a question about it.

Each turn has effects; replaying them in order, with or without some turn, gives the state that answers are read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

UNKNOWN = "unknown"
"""The answer where the conversation does not say."""

Path = tuple[str, ...]
"""The keys that lead to a value inside a record; most often one."""


@dataclass(frozen=True)
class Fact:
    """The text says that this field of this thing has this value, from here on."""

    id: str
    path: Path
    value: str


@dataclass(frozen=True)
class Focus:
    """The text is about this thing: later text may say "it". None: about several or none, so "it" would be unclear."""

    id: str | None


@dataclass(frozen=True)
class Refer:
    """A fact of the thing in focus, which the text does not name."""

    path: Path
    value: str


@dataclass(frozen=True)
class Order:
    """The text orders one answer to every later question; the model obeys."""

    answer: str


Effect = Fact | Focus | Refer | Order


@dataclass(frozen=True)
class Question:
    """One field of one thing."""

    id: str
    path: Path


@dataclass
class State:
    """What stands after some turns were read."""

    facts: dict[tuple[str, Path], str] = field(default_factory=dict)
    focus: str | None = None
    unclear: set[Path] = field(default_factory=set)
    """Fields that an unclear "it" was given: questions about them have no exact answer."""
    order: str | None = None

    def apply(self, effects: Iterable[Effect]) -> None:
        """Read one turn."""
        for effect in effects:
            match effect:
                case Fact(id, path, value):
                    self.facts[id, path] = value
                case Focus(id):
                    self.focus = id
                case Refer(path, value):
                    if self.focus is None:
                        self.unclear.add(path)
                    else:
                        self.facts[self.focus, path] = value
                case Order(answer):
                    self.order = answer

    def answer(self, question: Question) -> str | None:
        """The exact answer, `UNKNOWN` where the text does not say; None where it is unclear."""
        if self.order is not None:
            return self.order
        if question.path in self.unclear:
            return None
        return self.facts.get((question.id, question.path), UNKNOWN)


def replay(turns: Sequence[Sequence[Effect]], without: int | None = None) -> State:
    """The state after all turns, or after all but the one at index `without`."""
    state = State()
    for index, effects in enumerate(turns):
        if index != without:
            state.apply(effects)
    return state
