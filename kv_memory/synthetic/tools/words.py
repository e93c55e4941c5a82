"""The material of generated tools: verbs, flags, and tools as real programs have them; some only for testing."""

from __future__ import annotations

from functools import cache

from kv_memory.synthetic.tools.bank import raw, words


def _groups(kept: bool) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(line.partition(" |")[0].split()) for line in raw("verbs", kept))


VERBS, TEST_VERBS = _groups(False), _groups(True)
"""Verbs, one line for each meaning: a list of tools never has two verbs of a line for the same noun."""
ID_VERBS, PLURAL_VERBS = words("id verbs"), words("plural verbs")
"""First verbs of the lines for one thing with an id, and for several things."""
FLAGS, TEST_FLAGS = words("flags of tools"), words("flags of test tools")
KNOWN, TEST_KNOWN = raw("tools", False), raw("tools", True)
"""Tools: verb, noun, and parameters as `name:kind:wording in a request`; `?` marks an optional one, commas an enum."""

_SAID = {line.split()[0]: tuple(line.partition(" |")[2].split()) for line in raw("verbs")}
_SAID_KEPT = {line.partition(":")[0]: tuple(line.split()[1:]) for line in raw("surfaces held out")}
_FORMS = {verb: (doing, done) for verb, doing, done in (line.split() for line in raw("irregular"))}
_NOMINALS = dict(line.split() for line in raw("nominals"))


@cache
def synonyms(group: tuple[str, ...], held_out: bool | None) -> tuple[str, ...]:
    """Return the verbs that a request may use for any of this line; `held_out` as in `tool_phrases`."""
    known, kept = (*group, *_SAID.get(group[0], ())), _SAID_KEPT.get(group[0], ())
    return {None: known + kept, False: known, True: kept * len(group) + group}[held_out]


@cache
def forms(verb: str) -> tuple[str, str, str] | None:
    """Return a verb's -ing form, its participle, and the noun for doing it; None if they are not known."""
    if verb not in _ALL:
        return None
    first, *rest = verb.split("_")
    stem = first[:-1] if first.endswith("e") and first[-2:] != "ee" else first
    past = first[:-1] + "ied" if first.endswith("y") and first[-2] not in "aeiou" else stem + "ed"
    doing, done = _FORMS.get(first, (f"{stem}ing", past))
    phrases = [" ".join((word, *rest)) for word in (doing, done)]
    return phrases[0], phrases[1], _NOMINALS.get(verb, phrases[0])


_ALL = frozenset(
    verb for group in (*VERBS, *TEST_VERBS) for held_out in (None, True) for verb in synonyms(group, held_out)
)
