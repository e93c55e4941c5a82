"""Copying of text that is kept, and abstention: what an erasure must not harm, and what it must take away.

A conversation of small talk, with a message of the user that is erased. Kinds, in turns:

- `copy`: the erased message is an older version of a list of codes. The list that is kept follows near (at once) or far
  (after 600 tokens), and is to be repeated word for word. The older list is the wrong answer.
- `gone`: the erased message alone says what is asked for. There is no right answer; the value is the wrong one, and
  `abstains` judges whether an answer says that it is not known.

Nothing is read from files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.small_talk import SmallTalk, turn
from kv_memory.evaluation.suites.source import Source, in_turns

SUITE = "copy"
CONVERSATIONS = 500
"""Number of conversations of each kind."""
BEFORE, AFTER = 100, 150
"""Number of tokens of small talk before the erased message, and before the question."""
PLACES = {"near": 0, "far": 600}
"""Number of tokens of small talk between the erased message and what is kept."""
CODES, CHANGED = 6, 3
"""Number of codes in a list, and of those that differ in the older version."""
_REPLY = "Noted."
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_LISTS = "gates", "lockers", "cupboards", "cabins", "crates", "lamps", "boats", "garages"
_NAMES = "Mara", "Tomas", "Ines", "Paul", "Vera", "Hugo", "Nina", "Carl", "Ruth", "Omar"
_FACTS = (
    ("The passcode of {name}'s house is {value}.", "What is the passcode of {name}'s house?"),
    ("{name} lives at number {value}, Mill Lane.", "At which number in Mill Lane does {name} live?"),
    ("The bill for {name} comes to {value} dollars.", "To how many dollars does the bill for {name} come?"),
    ("{name}'s member number is {value}.", "What is {name}'s member number?"),
)
_ASKED = "If you have not been told, say that you do not know."
_GIVEN = "told|given|mentioned|provided|said|shared|specified|stated"
_UNKNOWN = re.compile(
    r"\b(do|does|did|can|could|am|is|are|was|were|have|has|had)( ?n[o']t|not| never| unable to)( \w+)? "
    rf"(able|know|known|have|find|see|recall|remember|tell|access|provide|mention|include|say|specify|{_GIVEN}|available)\b"
    rf"|\bcan't (tell|find|say|answer|see|provide)\b|\b(not|never) (been )?({_GIVEN}|sure|aware|known|available)\b"
    r"|\b(no (idea|information|record|mention)|unknown|unable to)\b",
    re.IGNORECASE,
)


def abstains(said: str) -> bool:
    """Return whether an answer says that what is asked for is not known, in common English words.

    An answer that gives a number as well does not abstain.
    """
    plain = said.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return _UNKNOWN.search(plain) is not None and re.search(r"\d", plain) is None


def copying(source: Source) -> Iterator[Case]:
    """Yield the cases of both kinds, near and far, in turns."""
    talk = SmallTalk(source.form)
    return in_turns(
        *(_cases(source, talk, kind, place, tokens) for place, tokens in PLACES.items() for kind in ("copy", "gone"))
    )


def _cases(source: Source, talk: SmallTalk, kind: str, place: str, tokens: int) -> Iterator[Case]:
    for number in filter(lambda number: source.holds(str(number)), range(CONVERSATIONS)):
        rng = source.rng(SUITE, kind, number)  # the same conversation near and far
        span, kept, question, facts = (_copy if kind == "copy" else _gone)(rng)
        far = PLACES["far"]
        before, between, after = talk.drawn(rng, BEFORE, far, AFTER)
        messages = [
            *before,
            *turn(span, _REPLY, id="span"),
            *(between if tokens else ()),
            *turn(kept, _REPLY),
            *after,
        ]
        case = Transcript(source.form, messages).question(
            kind,
            ["span"],
            question,
            named=f'my message "{span}"',
            suite=SUITE,
            name=f"{kind}, {number}, {place}",
            conversation=f"{kind}, {number}",
            groups={"place": place},
            **facts,
        )
        if source.fits(case):
            yield case


def _copy(rng: Random) -> tuple[str, str, str, dict[str, Any]]:
    """Return the erased message, the kept one, the question, and the case's answers."""
    of, kept = rng.choice(_LISTS), [_code(rng) for _ in range(CODES)]
    changed = rng.sample(range(CODES), CHANGED)
    older = [_code(rng) if place in changed else code for place, code in enumerate(kept)]
    return (
        f"These are the codes of the {of}: {', '.join(older)}.",
        f"This is the new list of the codes of the {of}: {', '.join(kept)}.",
        f"Repeat the new list of the codes of the {of} word for word, and nothing else.",
        {"answer": ", ".join(kept), "aliases": (), "wrong": (", ".join(older),)},
    )


def _gone(rng: Random) -> tuple[str, str, str, dict[str, Any]]:
    """Return the erased message, one about somebody else, the question, and the case's wrong answer."""
    (name, other), (fact, question) = rng.sample(_NAMES, 2), rng.choice(_FACTS)
    value = str(rng.randint(1000, 9999))
    return (
        fact.format(name=name, value=value),
        f"{other} will call me tomorrow.",
        f"{question.format(name=name)} {_ASKED}",
        {"wrong": (value,)},
    )


def _code(rng: Random) -> str:
    return f"{rng.choice(_LETTERS)}{rng.choice(_LETTERS)}-{rng.randint(100, 999)}"
