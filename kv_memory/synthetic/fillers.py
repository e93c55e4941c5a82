"""Sentences that say nothing about any record (fillers.txt): requests, small talk, system messages, errors."""

from __future__ import annotations

from kv_memory.synthetic.sections import read_sections

_SECTIONS = read_sections("fillers.txt")


def _section(name: str) -> tuple[str, ...]:
    return tuple("" if line == "-" else line.replace("\\n", "\n") for line in _SECTIONS[name])


REQUESTS, LATEST, LISTS, READS = map(_section, ("requests", "latest", "lists", "reads"))
REMARKS, SYSTEMS, ERRORS, RULES = map(_section, ("remarks", "systems", "errors", "rules"))
TALK = tuple((asked, reply) for asked, _, reply in (line.partition(" || ") for line in _section("talk")))
