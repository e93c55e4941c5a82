"""The wordings of requests for a tool (wordings.txt); some of each kind are kept for testing only.

A request is an opener, a frame around what to do, and the arguments in some style. `{w}` is any word, `{k}` an
argument's name, `{v}` its value, `{key}` a field of the result that the user wants to know. A random word never touches
a value, for then nobody could say where the value begins; in some requests of training it does, but each value is then
in quotes, so that a model learns that the words around a value are no part of it.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import NamedTuple

from kv_memory.synthetic.tools.bank import Lines, expand, lines, naturals, raw
from kv_memory.synthetic.values import Split

SLIPS, SLIP = 0.3, 0.15
"""Share of training requests in which words are lost, added or changed, and share of their words."""
_HOLDS = frozenset(("not", "no", "without", "yes", "true", "false", "on", "off", "if", "unless", "never", "nothing"))
_WORDS = re.compile(r"[a-z]+")


class Style(NamedTuple):
    """A way to say arguments."""

    place: str
    """Place of the arguments: inside the sentence; after a colon; in lines of their own; in sentences after it; before
    everything else; json, as an object."""
    heads: tuple[str, ...]
    """Wordings around all arguments (`{args}`)."""
    items: tuple[str, ...]
    between: tuple[str, ...]
    last: tuple[str, ...]
    """Wordings before the last argument."""


class ToolPhrases(NamedTuple):
    """The wordings that one world draws from."""

    parts: dict[str, Lines]
    """Wordings by section."""
    styles: tuple[Style, ...]
    loose: tuple[Style, ...]
    """Styles in which random words touch values, which are then in quotes; none outside of training."""
    naturals: dict[str, Lines]
    flags: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """Ways to say that an argument is true, and false."""
    yes: tuple[tuple[str, str], ...]
    """Words for true and false."""
    held_out: bool | None
    slips: float
    """Share of requests with slips."""


_PARTS = ("openers", "closers", "frames", "asks", "doing", "done", "act", "calls", "topics", "things", "plurals",
          "named", "wants")  # fmt: skip


@cache
def _phrases(held_out: bool | None, slips: float) -> ToolPhrases:
    def pairs(section: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        split = [line.split(" || ") for line in raw(section, held_out) or raw(section)]
        return [(expand(yes), expand(no)) for yes, no in split]

    return ToolPhrases(
        {name: lines(name, held_out) for name in _PARTS},
        tuple(_style(line) for line in raw("styles", held_out)),
        tuple(_style(line) for line in raw("loose styles") if slips),
        naturals(held_out),
        tuple(pairs("flags")),
        tuple((yes[0], no[0]) for yes, no in pairs("yes")),
        held_out,
        slips,
    )


def tool_phrases(split: Split, held_out: bool | None = None) -> ToolPhrases:
    """Return the wordings of a split.

    `held_out` says which a test world uses: those of training (False), those kept for testing (True), or both (None).
    """
    return _phrases(False, SLIPS) if split == "train" else _phrases(held_out, 0)


def _style(line: str) -> Style:
    place, heads, *rest = line.split(" || ")
    items, between, last = [*rest, *("{k}", ",_", "_and_")[len(rest) :]]
    gaps = [tuple(text.replace("_", " ") for text in expand(part)) for part in (between, last)]
    return Style(place, expand(heads), expand(items), gaps[0], gaps[1])


@cache
def glue_words() -> frozenset[str]:
    """Return the words that occur beside values in the wordings: as values they need quotes."""
    texts = [line for section in ("styles", "naturals", "flags", "yes", "named") for line in raw(section)]
    return frozenset(_WORDS.findall(" ".join(texts).lower())) | {"please", "me", "of", "now", "today", "then"}


def slip(rng: Random, text: str) -> str:
    """Return the wording with words lost, added or changed, but none beside what it leaves open."""
    words = text.split(" ")
    kept = []
    for place, word in enumerate(words):
        near = "".join(words[max(0, place - 1) : place + 2])
        if not word.isalpha() or "{" in near or rng.random() >= SLIP or word.lower() in _HOLDS:
            kept.append(word)
        elif (draw := rng.random()) < 0.5:
            kept.append("{w}")
        elif draw < 0.75:
            kept += [word, "{w}"] if draw < 0.63 else ["{w}", word]
    return " ".join(kept) or text
