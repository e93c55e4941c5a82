"""Sentences that say nothing about any record (fillers.txt): requests, small talk, system messages, errors."""

from __future__ import annotations

from pathlib import Path

_TEXT = (Path(__file__).parent / "fillers.txt").read_text(encoding="utf-8")
_SECTIONS = {name: lines for name, *lines in (block.split("\n") for block in _TEXT.strip().split("\n\n# ")[1:])}


def _section(name: str) -> tuple[str, ...]:
    return tuple("" if line == "-" else line.replace("\\n", "\n") for line in _SECTIONS[name])


REQUESTS, LATEST, LISTS, READS = map(_section, ("requests", "latest", "lists", "reads"))
REMARKS, SYSTEMS, ERRORS, RULES = map(_section, ("remarks", "systems", "errors", "rules"))
TALK = tuple((asked, reply) for asked, _, reply in (line.partition(" || ") for line in _section("talk")))
