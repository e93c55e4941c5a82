"""Training conversations: a draft, in part of them with a span never read, and questions answered by the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from kv_memory.synthetic.drafter import Drafter
from kv_memory.synthetic.drafts import TOKENS_WITH_TOOLS, Ask, Draft, Kind, answered
from kv_memory.synthetic.events import Event, Events, Passage, Turn
from kv_memory.synthetic.facts import Fact, Question, State
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.values import Values

TOKENS_PER_QUESTION = 40
_SPANS = {300: (0, 1), 600: (1, 1), 1100: (1, 2), 2100: (2, 3), 4200: (3, 5), 1 << 20: (4, 8)}
"""Least and largest number of kinds of spans that matter, by the largest number of tokens."""


@dataclass(frozen=True)
class Sample:
    """A conversation with answered questions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    answers: frozenset[int]
    """Indices of the messages that answer a question."""
    wrong: frozenset[int] = frozenset()
    """Indices of messages that are not to be learned."""


def make_sample(rng: Random, tokens: int, passage: Passage | None = None) -> Sample:
    """Make a training conversation of about `tokens` tokens."""
    share = rng.uniform(0.3, 0.65) if tokens <= 1024 else rng.uniform(0.15, 0.5) if tokens < 5000 else 0.2
    questions = max(2, int(tokens * share / TOKENS_PER_QUESTION))
    drafter = Drafter(Values(rng, "train"), Phrases("train"), tokens - questions * TOKENS_PER_QUESTION, passage)
    draft = drafter.write(_kinds(rng, tokens))
    if rng.random() < 0.45:
        _erase(draft)
    return interview(draft, questions)


def interview(draft: Draft, questions: int) -> Sample:
    """Make a sample of the draft with about `questions` questions and their answers."""
    return _Interview(draft, questions).hold()


def plain_sample(rng: Random, tokens: int) -> Sample:
    """Make a conversation of look-ups alone, in plain words: what a model learns first."""
    questions = max(2, int(tokens * rng.uniform(0.4, 0.65) / TOKENS_PER_QUESTION))
    drafter = Drafter(Values(rng, "train"), Phrases("train", plain=True), tokens - questions * TOKENS_PER_QUESTION)
    return interview(drafter.write_plain(), questions)


def _kinds(rng: Random, tokens: int) -> list[Kind]:
    if rng.random() < 0.1:
        return ["injection"]
    kinds: list[Kind] = ["restore", "binding", "binding", "two-hop"]
    least, most = next(counts for length, counts in _SPANS.items() if tokens < length)
    kinds = rng.sample(kinds * 2, rng.randint(least, most))
    if rng.random() < 0.15:
        kinds.append("preference")  # a wish is about answers: not with calls
    elif rng.random() < (0 if tokens < TOKENS_WITH_TOOLS else 0.3):
        kinds.append("call")
    return kinds


def _erase(draft: Draft) -> None:
    """Remove one turn, as if never read: a span that matters to a question, or any that says something."""
    rng = draft.values.rng
    spans = [special.turn for special in draft.specials]
    if not spans or rng.random() < 0.3:
        spans = [turn for turn in draft.turns if turn.effects and turn.message["role"] in ("user", "tool")]
    if not spans:
        return
    turn = rng.choice(spans)
    for event in draft.events:
        if turn in event:  # what was said about it is no longer right
            for other in event[event.index(turn) + 1 :]:
                other.answer = False
    turn.effects = ()
    turn.message["content"] = ""
    if turn.message["role"] == "user" and rng.random() < 0.6:
        draft.events = [[item for item in event if item is not turn] for event in draft.events]


class _Interview:
    """The asking of questions between the events of a draft and after them; each answer is right at its place."""

    def __init__(self, draft: Draft, questions: int) -> None:
        self.draft = draft
        self.rng = draft.values.rng
        self.questions = questions
        self.state = State()
        self.turns: list[Turn] = []
        self.answers: set[int] = set()
        self.seen: set[str] = set()
        self.told: dict[Question, str] = {}
        self.asks = draft.asks()
        self.special = [special.ask for special in draft.specials]

    def hold(self) -> Sample:
        """Ask the questions and return the finished conversation."""
        count = len(self.draft.events)
        early = 0 if self.rng.random() < 0.3 else self.questions // 2
        after = [self.rng.randrange(count) for _ in range(early)]
        for index, event in enumerate(self.draft.events):
            self._read(event)
            for _ in range(after.count(index)):
                self._ask(self._choose(early=True))
        for ask in self.special:
            self._ask(ask)
        for _ in range(max(1, self.questions - early - len(self.special))):
            self._ask(self._choose(early=False))
        if self.draft.toolbox and self.rng.random() < 0.7:
            self._read(Events(self.draft.values, self.draft.phrases).act(self.draft.toolbox))
        wrong = frozenset(index for index, turn in enumerate(self.turns) if turn.wrong)
        return Sample([turn.message for turn in self.turns], self.draft.tools, frozenset(self.answers), wrong)

    def _read(self, event: Event) -> None:
        for turn in event:
            self.state.apply(turn.effects)
            self.seen.update(effect.id for effect in turn.effects if isinstance(effect, Fact))
            if turn.answer:
                self.answers.add(len(self.turns))
            self.turns.append(turn)

    def _choose(self, early: bool) -> Ask:
        draw = self.rng.random()
        if draw < 0.12 or not self.asks:
            return self.draft.missing()
        if draw < 0.25 and self.special:
            return self.rng.choice(self.special)
        # Before the end, mostly what was told by then: the rest would all be unknown.
        told = [ask for ask in self.rng.choices(self.asks, k=6) if not early or ask.record.id in self.seen]
        return told[0] if told else self.rng.choice(self.asks)

    def _ask(self, ask: Ask) -> None:
        answer = self.state.answer(ask.question)
        if answer is None or self.told.get(ask.question) == answer:
            return  # unclear, or it could be copied from the answer before
        self.told[ask.question] = answer
        self._read(answered(self.draft, ask, answer))
        self.answers.add(len(self.turns) - 1)
