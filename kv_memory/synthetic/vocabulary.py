"""The words of worlds: kinds of things, field names, names of people; and the kind of value of a field name."""

from __future__ import annotations

from kv_memory.synthetic.sections import read_sections

_SECTIONS = read_sections("words.txt")


def _words(section: str) -> tuple[str, ...]:
    return tuple(" ".join(_SECTIONS[section]).split())


NOUNS, TEST_NOUNS = _words("nouns"), _words("test nouns")
MODIFIERS, TEST_MODIFIERS = _words("modifiers"), _words("test modifiers")
GROUPS, TEST_GROUPS = _words("groups"), _words("test groups")
CHILDREN, TEST_CHILDREN = _words("children"), _words("test children")
FIRST_NAMES = _words("first names")
CITIES = _words("cities")
STATUSES = _words("statuses")
ONSETS, VOWELS, CODAS = _words("onsets"), _words("vowels"), (*_words("codas"), "", "", "")
HEADS = {head: kind for line in _SECTIONS["heads"] for kind, *heads in [line.split()] for head in heads}
"""Last words of field names, each with the kind of its values."""
TEST_HEADS = {head: kind for line in _SECTIONS["test heads"] for kind, head in [line.split()]}
_KEPT = {*TEST_NOUNS, *TEST_MODIFIERS, *TEST_GROUPS, *TEST_CHILDREN, *TEST_HEADS}
ENGLISH = tuple(word for word in _words("english") if word not in _KEPT)
"""Common English words, for use anywhere."""
