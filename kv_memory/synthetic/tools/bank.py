"""The lists that requests for tools are made of (wordings.txt)."""

from __future__ import annotations

import re
from functools import cache

from kv_memory.synthetic.sections import read_sections, weighted

Lines = tuple[tuple[str, ...], ...]
"""Choices of a section, each with the wordings that it stands for."""

_OPTIONS = re.compile(r"<([^<>]*\|[^<>]*)>")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\p": "|", r"\l": "<", r"\g": ">"}
_SECTIONS = read_sections("tools/wordings.txt")
_MACROS = {f"<{name}>": f"<{options}>" for name, _, options in (line.partition("=") for line in _SECTIONS["macros"])}
_MACRO = re.compile("|".join(_MACROS))


def raw(section: str, kept: bool | None = None) -> tuple[str, ...]:
    """Return a section's lines unchanged, weighted; those for training (False), for testing (True), or both."""
    lines: list[str] = []
    for line in _SECTIONS[section]:
        body, weight = weighted(line)
        held = body.startswith("! ")
        if kept is None or kept == held:
            lines += [body.removeprefix("! ")] * weight
    return tuple(lines)


def words(section: str) -> tuple[str, ...]:
    """Return a section's words."""
    return tuple(" ".join(raw(section)).split())


def expand(line: str) -> tuple[str, ...]:
    """Return a wording of a line, with one option for each `<a|b>`."""
    texts = ["" if line == "-" else _MACRO.sub(lambda macro: _MACROS[macro[0]], line)]
    done: list[str] = []
    while texts:
        text = texts.pop()
        if found := _OPTIONS.search(text):
            texts += [text[: found.start()] + option + text[found.end() :] for option in found[1].split("|")]
        else:
            done.append(re.sub(r"\\[ntplg]", lambda escape: _ESCAPES[escape[0]], text))
    return tuple(dict.fromkeys(reversed(done)))


def without(known: Lines, kept: Lines) -> Lines:
    """Return what is known and not kept for testing."""
    held = {text for line in kept for text in line} - {""}
    return tuple(left for line in known if (left := tuple(text for text in line if text not in held)))


@cache
def lines(section: str, held_out: bool | None) -> Lines:
    """Return a section's choices: those of training (False), those kept for testing if there are any (True), or
    both."""
    known, kept = (tuple(expand(line) for line in raw(section, held)) for held in (False, True))
    known = without(known, kept)
    return {None: known + kept, False: known, True: kept or known}[held_out]


@cache
def naturals(held_out: bool | None) -> dict[str, Lines]:
    """Return other wordings of an argument that need no name, by kind and wording."""
    found: dict[str, Lines] = {}
    for line in raw("naturals", held_out):
        key, _, other = line.partition(" = ")
        found[key] = (*found.get(key, ()), expand(other))
    return found
