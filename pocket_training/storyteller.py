"""Invented stories in the manner of bAbI, with names, places and things from everywhere."""

from __future__ import annotations

from random import Random

from kv_memory.synthetic.facts import UNKNOWN
from kv_memory.synthetic.values import Values
from pocket_training.stories import DROPS, LINKS, MOVES, TAKES, Asked, Deed, Line, Story, Whereabouts

_HE, _SHE, _PLACES, _THINGS = map(
    str.split,
    (
        "Amir Anders Ben Bill Daniel David Farid Finn Fred Hugo Ivan Jeff Joel John Juan Karl Kofi Liam Luis Marco "
        "Max Nils Noah Omar Peter Raj Tariq Theo Tom Yusuf",
        "Ada Ana Anna Bea Carla Elif Emma Eva Grace Hana Ines Jana Julie Lara Lena Lily Maja Maria Mary Mei Mia "
        "Mina Nadia Olga Paula Petra Rosa Sandra Sara Sofia Uma Vera Yara Zoe",
        "attic balcony barn basement bathroom bedroom cellar cinema corridor garage garden hallway kitchen library "
        "lobby office park playground pantry school shop stable station street theatre workshop",
        "apple bag ball basket book bottle box coin cup football hat key lamp letter map milk pen phone ring",
    ),
)
_VERBS: dict[Deed, tuple[str, ...]] = {"move": MOVES, "take": TAKES, "drop": DROPS}
_MORE_VERBS: dict[Deed, tuple[str, ...]] = {
    "move": (*MOVES, "walked to", "ran to", "hurried to", "returned to", "came to"),
    "take": (*TAKES, "fetched", "lifted", "collected"),
    "drop": (*DROPS, "set down", "laid down", "threw away"),
}
_WHERE = ("Where is {} now?", "In which place is {}?", "What is the location of {}?", "Which place is {} in?")


def ask_about(rng: Random, story: Story, state: Whereabouts, yes_no: float, plain: bool = True) -> Asked:
    """Make a question about somebody or something of the story; with the share `yes_no`, whether somebody is at a
    place.

    `plain`: in the words of the files.
    """
    lines = story.lines
    line = lines[int(rng.random() * len(lines))]
    if line.deed != "move":
        return Asked((_WHERE[0] if not plain else "Where is {}?").format("the " + line.what), line.what)
    name = line.who[0] if rng.random() < 0.5 else line.who[-1]
    if name not in story.pronouns or rng.random() < 0.15:
        name = rng.choice(list(story.pronouns))
    if rng.random() >= yes_no:
        return Asked((rng.choice(_WHERE) if not plain else "Where is {}?").format(name), name)
    place = state.where(name)
    if place in (None, UNKNOWN) or rng.random() < 0.5:
        place = line.what
    return Asked(f"Is {name} in the {place}?", name, str(place))


def invent(values: Values, count: int) -> Story:
    """Make a story of this many lines, with questions in between."""
    return _Teller(values).tell(count)


class _Teller:
    def __init__(self, values: Values) -> None:
        self.values = values
        self.rng = rng = values.rng
        self.names: set[str] = set()
        self.pronouns = self._people(rng.randint(2, 5))
        self.places = self._words(_PLACES, rng.randint(3, 8))
        self.things = self._words(_THINGS, rng.randint(1, 4)) if rng.random() < 0.5 else []
        self.verbs = _VERBS if rng.random() < 0.65 else _MORE_VERBS
        self.plain = self.verbs is _VERBS
        self.pairs = rng.choice((0, 0, 0.4, 1))
        self.chained = rng.choice((0, 0, 0.3, 0.5))
        self.yes_no = rng.choice((0, 0, 0.3, 1))
        self.every = rng.choice((2, 2, 3, 4))
        self.state = Whereabouts()

    def tell(self, count: int) -> Story:
        story = Story([], self.pronouns)
        before: Line | None = None
        for index in range(count):
            before = self._next(before)
            story.steps.append(before)
            self.state.read(before, self.pronouns)
            if index % self.every == self.every - 1:
                story.steps.append(ask_about(self.rng, story, self.state, self.yes_no, self.plain))
        return story

    def _people(self, count: int) -> dict[str, str]:
        """Draw names, each with its pronoun. Nobody can know the pronoun of an invented name: all have the same
        there."""
        rng, values = self.rng, self.values
        if rng.random() < 0.6:
            pool = (*_HE, *_SHE)
            names = rng.sample(pool, count)
            self.names.update(names)
            return {name: "he" if name in _HE else "she" for name in names}
        pronoun = rng.choice(("he", "she"))
        words = 2 if rng.random() < 0.3 else 1
        invented = (" ".join(values.word().capitalize() for _ in range(words)) for _ in range(count))
        return {self._new(name): pronoun for name in invented}

    def _words(self, known: list[str], count: int) -> list[str]:
        values, common = self.values, self.rng.random() < 0.4
        kinds = ("word", "word", "word", "word", "word", "phrase")
        drawn = (values.pick(known) if common else str(values.value(values.pick(kinds))) for _ in range(count))
        return [self._new(text) for text in drawn]

    def _new(self, text: str) -> str:
        while text in self.names:
            text = self.values.word()
        self.names.add(text)
        return text

    def _next(self, before: Line | None) -> Line:
        rng = self.rng
        if before and before.deed == "move" and rng.random() < self.chained:
            who = before.who if before.who[0] in ("he", "she", "they") else self._pronoun(before.who)
            return self._line("move", who, self._other_place(before.what), f"{rng.choice(LINKS)} {who[0]}")
        name = rng.choice(list(self.pronouns))
        if self.things and rng.random() < 0.45:
            thing = rng.choice(self.things)
            holder = self.state.holders.get(thing)
            if holder is not None:
                return self._line("drop", (holder,), thing, holder)
            if self.state.where(thing) in (UNKNOWN, self.state.where(name)):
                return self._line("take", (name,), thing, name)
        if rng.random() < self.pairs:
            pair = tuple(rng.sample(list(self.pronouns), 2))
            return self._line("move", pair, rng.choice(self.places), " and ".join(pair))
        return self._line("move", (name,), self._other_place(self.state.where(name)), name)

    def _pronoun(self, who: tuple[str, ...]) -> tuple[str]:
        return ("they" if len(who) > 1 else self.pronouns[who[0]],)

    def _other_place(self, place: str | None) -> str:
        return self.rng.choice([other for other in self.places if other != place])

    def _line(self, deed: Deed, who: tuple[str, ...], what: str, subject: str) -> Line:
        there = " there" if deed == "take" or (deed == "drop" and self.rng.random() < 0.2) else ""
        return Line(f"{subject} {self.rng.choice(self.verbs[deed])} the {what}{there}.", who, deed, what)
