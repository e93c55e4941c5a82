"""The wordings of worlds: a grammar (wordings.txt), some of whose choices are kept for testing only.

A model would learn a few templates by heart. A grammar multiplies them, and noise, random words in place of most of a
sentence, makes what counts in it stand out: the field, the thing and the value.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random

from kv_memory.synthetic.sections import read_sections, weighted
from kv_memory.synthetic.values import Split

Part = tuple[str, bool]
"""One piece of a choice: text, or the name of a section (True)."""
Choice = tuple[Part, ...]
Section = tuple[Choice, ...]

_SPACES = re.compile(r" {2,}")
_BEFORE_MARK = re.compile(r" +(?=[?.!,;:](?:\s|$))")
NOISY, NOISE = 0.25, 0.2
"""Share of training sentences that may be noisy, and share of noise among the choices of those."""
SLIPS, SLIP = 0.3, 0.2
"""Share of training sentences in which words are lost, added or changed, and share of their words."""
_SLIPPERY = frozenset(("question", "statement", "update", "mention", "my question", "my statement", "order"))
"""Sections whose sentences may have slips: in others each word counts."""
_HOLDS = frozenset({"my", "i", "me", "not", "no", "ai", "it", "its", "that", "this", "say", "reply", "respond"})
"""Words that say what a sentence is about, or that it is an order."""

PLAIN_QUESTIONS = ("What is the {key} of {id}?", "{id} {key}?", "Tell me the {key} of {noun} {id}.", "{key} of {id}?")


class Phrases:
    """The sentences that one world draws from."""

    def __init__(self, split: Split, held_out: bool | None = None, *, plain: bool = False) -> None:
        """Collect the sentences of one split.

        `held_out`: a test world uses the sentences of training (False), those kept for testing (True), or both (None).
        `plain`: no noise, and questions in the first few wordings only.
        """
        self.split = split
        self.held_out = held_out
        self.plain = plain

    def draw(self, rng: Random, section: str) -> str:
        """Draw a sentence of this section: `<w>` becomes any word, the places `{key}`, `{id}` ... are left open."""
        if self.plain and section == "question":
            return PLAIN_QUESTIONS[int(rng.random() * len(PLAIN_QUESTIONS))]
        if self.split == "train":
            sections = _sections("~" if not self.plain and rng.random() < NOISY else "")
        else:
            held = self.held_out if self.held_out is not None else rng.random() < 0.5
            sections = _sections("!" if held else "")
        text = "".join(_expand(rng, sections, section))
        if self.split == "train" and section in _SLIPPERY and not self.plain and rng.random() < SLIPS:
            text = _slip(rng, text)
        text = _BEFORE_MARK.sub("", _SPACES.sub(" ", text).strip())
        return text[0].upper() + text[1:] if rng.random() < 0.8 and text[0] != "{" else text


def _slip(rng: Random, text: str) -> str:
    """Return the sentence with words lost, added or changed, but none beside the value, whose ends would become
    unclear."""
    words = text.split()
    kept = []
    for place, word in enumerate(words):
        near = "".join(words[max(0, place - 1) : place + 2])
        if (
            not word.isalpha()
            or word.lower() in _HOLDS
            or word.startswith("answer")
            or "{value}" in near
            or rng.random() >= SLIP
        ):
            kept.append(word)
        elif (draw := rng.random()) < 0.5:
            kept.append("<w>")
        elif draw < 0.75:
            kept += [word, "<w>"] if draw < 0.63 else ["<w>", word]
    return " ".join(kept) or text


def _expand(rng: Random, sections: dict[str, Section], name: str) -> list[str]:
    options = sections[name]
    texts: list[str] = []
    for text, symbol in options[int(rng.random() * len(options))]:
        if symbol and text != "w":
            texts += _expand(rng, sections, text)
        else:
            texts.append("<w>" if symbol else text)
    return texts


@cache
def _sections(kind: str) -> dict[str, Section]:
    """Return the grammar without noise and without what is kept for testing (""), with noise ("~"), or ("!") in each
    section that keeps choices for testing those alone."""

    def of(name: str, *marks: str) -> Section:
        return tuple(choice for mark, choice in _grammar()[name] if mark in marks)

    sections = {}
    for name in _grammar():
        sections[name] = of(name, "")
        if kind == "!":
            sections[name] = of(name, "!") or sections[name]
        elif kind == "~" and of(name, "~"):
            noise = of(name, "~")
            sections[name] += noise * (1 + int(len(sections[name]) * NOISE / (1 - NOISE) / len(noise)))
    return sections


@cache
def _grammar() -> dict[str, list[tuple[str, Choice]]]:
    sections = read_sections("wordings.txt")
    symbol = re.compile(f"<({'|'.join([*sections, 'w'])})>")
    return {name: [choice for line in lines for choice in _choices(line, symbol)] for name, lines in sections.items()}


def _choices(line: str, symbol: re.Pattern[str]) -> list[tuple[str, Choice]]:
    body, weight = weighted(line)
    mark = body[0] if body[:2] in ("! ", "~ ") else ""
    body = body[2:] if mark else body
    parts = enumerate(symbol.split("" if body == "-" else body))
    choice = tuple((part, place % 2 == 1) for place, part in parts if part)
    return [(mark, choice)] * weight
