"""Generated conversations in which a later text depends on the span, at three distances: near or far repair.

The user says how things are, for example which account has which number. A later message of the user, or a tool
result, says it differently, and is erased. After 0, 250 or 1,500 tokens of small talk comes the dependent text, which
names a thing by another name. The question about it is answered by what was said first. Kinds, in turns:

- `alias`: the dependent text says what somebody did whom it calls by a role, and the question asks for the name.
- `look-up`: the dependent text names a thing, and the question asks for the number or place that belongs to it.

A conversation is the same at each distance but for the place of the dependent text, so that the number of tokens after
the span is the same too. Nothing is read from files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from random import Random
from typing import Any

from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.small_talk import SmallTalk, turn
from kv_memory.evaluation.suites.source import Source

SUITE = "distance"
DISTANCES = (0, 250, 1500)
CONVERSATIONS = 500
AFTER = 120
"""Number of tokens of small talk after the dependent text, at least."""
REPLY = "Noted."
_BIRDS = "Osprey", "Falcon", "Heron", "Kestrel", "Plover", "Swift", "Linnet", "Merlin", "Curlew", "Harrier"
_NAMES = "Mara", "Tom", "Ines", "Paul", "Vera", "Hugo", "Nina", "Carl", "Ruth", "Omar"
_CITIES = "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Turin", "Perth", "Leeds", "Tokyo", "Prague"
_DISHES = "soup", "rice", "fish", "cake", "bread", "salad", "pasta", "curry", "stew", "pie"
_FRUIT = "apples", "pears", "plums", "figs", "dates", "cherries", "lemons", "grapes"


@dataclass(frozen=True)
class _Story:
    """Texts of a conversation: the first, the span, the one that depends on it, and a question with its answers."""

    kind: str
    first: str
    span: str
    dependent: str
    question: str
    answer: str
    wrong: str


def _account(rng: Random) -> _Story:
    number, (one, two) = rng.randint(1000, 9999), rng.sample(_NAMES, 2)
    return _Story(
        "alias",
        f"The owner of account {number} is {one}.",
        f"The owner of account {number} is {two}.",
        f"The owner of account {number} was paid 120 dollars on Monday.",
        "Who was paid 120 dollars on Monday? Answer with the name only.",
        one,
        two,
    )


def _paid(rng: Random) -> _Story:
    (a, b), name = _numbers(rng, 1000, 9999), rng.choice(_BIRDS)
    return _Story(
        "look-up",
        f"The {name} account is account {a}.",
        f"The {name} account is account {b}.",
        f"On Monday, 120 dollars were paid to the {name} account.",
        "Which account was paid 120 dollars on Monday? Answer with its number only.",
        a,
        b,
    )


def _room(rng: Random) -> _Story:
    number, (one, two), dish = rng.randint(101, 499), rng.sample(_NAMES, 2), rng.choice(_DISHES)
    return _Story(
        "alias",
        f"The guest in room {number} is {one}.",
        f"The guest in room {number} is {two}.",
        f"The guest in room {number} ordered {dish}.",
        f"Who ordered {dish}? Answer with the name only.",
        one,
        two,
    )


def _parcel(rng: Random) -> _Story:
    name, (a, b) = rng.choice(_NAMES), rng.sample(_CITIES, 2)
    return _Story(
        "look-up",
        f"{name} works in {a}.",
        f"{name} works in {b}.",
        f"The parcel was sent to the city where {name} works.",
        "To which city was the parcel sent? Answer with the city only.",
        a,
        b,
    )


def _captain(rng: Random) -> _Story:
    bird, (one, two) = rng.choice(_BIRDS), rng.sample(_NAMES, 2)
    return _Story(
        "alias",
        f"The captain of the {bird} is {one}.",
        f"The captain of the {bird} is {two}.",
        f"The captain of the {bird} won the race.",
        "Who won the race? Answer with the name only.",
        one,
        two,
    )


def _price(rng: Random) -> _Story:
    fruit, buyer, (a, b) = rng.choice(_FRUIT), rng.choice(_NAMES), _numbers(rng, 11, 99)
    return _Story(
        "look-up",
        f"A box of {fruit} costs {a} dollars.",
        f"A box of {fruit} costs {b} dollars.",
        f"{buyer} bought one box of {fruit}.",
        f"How many dollars did {buyer} pay? Answer with the number only.",
        a,
        b,
    )


_STORIES = _account, _paid, _room, _parcel, _captain, _price


def _numbers(rng: Random, low: int, high: int) -> list[str]:
    return [str(number) for number in rng.sample(range(low, high + 1), 2)]


def distance(source: Source) -> Iterator[Case]:
    """Yield a case for each distance of one conversation after the other."""
    small_talk, steps = SmallTalk(source.form), [b - a for a, b in pairwise((0, *DISTANCES))]
    for number in filter(lambda number: source.holds(str(number)), range(CONVERSATIONS)):
        rng = source.rng(SUITE, number)
        story = _STORIES[number % len(_STORIES)](rng)
        looked_up = number // len(_STORIES) % 2 == 1
        talk = small_talk.drawn(rng, *steps, AFTER)
        for place, tokens in enumerate(DISTANCES, 1):
            before, after = chain.from_iterable(talk[:place]), chain.from_iterable(talk[place:])
            messages = _messages(story, before, after, looked_up)
            case = Transcript(source.form, messages).question(
                story.kind,
                ["span"],
                story.question,
                named="the result of look_up" if looked_up else "my second message",
                answer=story.answer,
                aliases=(),
                wrong=(story.wrong,),
                suite=SUITE,
                name=f"{number}, {tokens} tokens",
                conversation=str(number),
                groups={"distance": tokens},
            )
            if source.fits(case):
                yield case


def _messages(
    story: _Story, before: Iterable[dict[str, Any]], after: Iterable[dict[str, Any]], looked_up: bool
) -> list[dict[str, Any]]:
    """Return the conversation with small talk before and after the dependent text; the span has the id "span"."""
    span = f"That has changed. {story.span}"
    return [
        *turn(story.first, REPLY),
        *(_looked_up(span) if looked_up else turn(span, REPLY, id="span")),
        *before,
        *turn(story.dependent, REPLY),
        *after,
    ]


def _looked_up(found: str) -> list[dict[str, Any]]:
    call = {"id": "call", "type": "function", "function": {"name": "look_up", "arguments": {}}}
    return [
        {"role": "user", "content": "Look it up again, please."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": found, "tool_call_id": "call", "id": "span"},
        {"role": "assistant", "content": REPLY},
    ]
