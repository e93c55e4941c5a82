"""Generated conversations in which a later text depends on the span, at three distances: near or far repair.

The user says how things are, for example which account has which number. A later message of the user, or a tool
result, says it differently, and is erased. After 0, 250 or 1,500 tokens of small talk comes the dependent text, which
names a thing without its number. The question about it is answered by what was said first. Kinds, in turns:

- `alias`: the dependent text gives a value to a thing by one name, and the question asks for it by the other one.
- `look-up`: the dependent text names a thing, and the question asks for what the first text says of it.

A conversation is the same at each distance but for the place of the dependent text, so that the number of tokens after
the span is the same too. Nothing is read from files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from random import Random
from typing import Any

from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.source import Source
from kv_memory.synthetic.fillers import TALK

SUITE = "distance"
DISTANCES = (0, 250, 1500)
CONVERSATIONS = 500
AFTER = 120
"""Number of tokens of small talk after the dependent text, at least."""
REPLY = "Noted."
_TALK = tuple((asked, reply) for asked, reply in TALK if "{" not in asked + reply)
_BIRDS = "Osprey", "Falcon", "Heron", "Kestrel", "Plover", "Swift", "Linnet", "Merlin", "Curlew", "Harrier"
_NAMES = "Mara", "Tom", "Ines", "Paul", "Vera", "Hugo", "Nina", "Carl", "Ruth", "Omar"
_CITIES = "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Turin", "Perth", "Leeds", "Tokyo", "Prague"
_DISHES = "soup", "rice", "fish", "cake", "bread", "salad", "pasta", "curry", "stew", "pie"
_FRUIT = "apples", "pears", "plums", "figs", "dates", "cherries", "lemons", "grapes"


@dataclass(frozen=True)
class _Story:
    """What is said first, what the span says, the dependent text and the question, with its answers."""

    kind: str
    first: str
    span: str
    dependent: str
    question: str
    answer: str
    wrong: str


def _balance(rng: Random) -> _Story:
    (one, two), (a, b) = rng.sample(_BIRDS, 2), _numbers(rng, 1000, 9999)
    x, y = _numbers(rng, 11, 999)
    return _Story(
        "alias",
        f"The {one} account is account {a}. The {two} account is account {b}.",
        f"The {one} account is account {b}. The {two} account is account {a}.",
        f"The balance of the {one} account is {x} dollars. The balance of the {two} account is {y} dollars.",
        f"What is the balance of account {a}? Answer with the number only.",
        x,
        y,
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
    (one, two), (a, b) = rng.sample(_NAMES, 2), _numbers(rng, 101, 499)
    x, y = rng.sample(_DISHES, 2)
    return _Story(
        "alias",
        f"{one} is the guest in room {a}. {two} is the guest in room {b}.",
        f"{two} is the guest in room {a}. {one} is the guest in room {b}.",
        f"The guest in room {a} ordered {x}. The guest in room {b} ordered {y}.",
        f"What did {one} order? Answer with one word.",
        x,
        y,
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


_STORIES = _balance, _paid, _room, _parcel, _captain, _price


def _numbers(rng: Random, low: int, high: int) -> list[str]:
    return [str(number) for number in rng.sample(range(low, high + 1), 2)]


def distance(source: Source) -> Iterator[Case]:
    """Yield a case for each distance of one conversation after the other."""
    sizes = {pair: _size(source, *pair) for pair in _TALK}
    for number in filter(lambda number: source.holds(str(number)), range(CONVERSATIONS)):
        rng = source.rng(SUITE, number)
        story = _STORIES[number % len(_STORIES)](rng)
        looked_up = number // len(_STORIES) % 2 == 1
        talk = rng.sample(_TALK, len(_TALK))
        ends = list(accumulate((sizes[pair] for pair in talk), initial=0))
        places = {tokens: sum(end < tokens for end in ends) for tokens in DISTANCES}
        last = sum(end < ends[max(places.values())] + AFTER for end in ends)
        for tokens, before in places.items():
            messages = _messages(story, talk[:before], talk[before:last], looked_up)
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


def _size(source: Source, asked: str, reply: str) -> int:
    """Return the number of tokens of a pair of messages, with the template's around them."""
    pair = _said(asked, reply)
    return len(Transcript(source.form, pair * 2).ids) - len(Transcript(source.form, pair).ids)


def _messages(
    story: _Story, before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]], looked_up: bool
) -> list[dict[str, Any]]:
    """Return the conversation with small talk before and after the dependent text; the span has the id "span"."""
    span = f"That has changed. {story.span}"
    return [
        *_said(story.first, REPLY),
        *(_looked_up(span) if looked_up else _said(span, REPLY, id="span")),
        *chain.from_iterable(_said(asked, reply) for asked, reply in before),
        *_said(story.dependent, REPLY),
        *chain.from_iterable(_said(asked, reply) for asked, reply in after),
    ]


def _said(asked: str, reply: str, **more: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": asked, **more}, {"role": "assistant", "content": reply}]


def _looked_up(found: str) -> list[dict[str, Any]]:
    call = {"id": "call", "type": "function", "function": {"name": "look_up", "arguments": {}}}
    return [
        {"role": "user", "content": "Look it up again, please."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": found, "tool_call_id": "call", "id": "span"},
        {"role": "assistant", "content": REPLY},
    ]
