"""The texts that worlds are made of: files of sections, `# name` and its lines, after an introduction."""

from __future__ import annotations

import re
from pathlib import Path

_WEIGHT = re.compile(r"(\d+)\* ")


def read_sections(file: str) -> dict[str, list[str]]:
    """The lines of each section of a file of this package."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return {name: lines for name, *lines in (block.split("\n") for block in text.rstrip("\n").split("\n\n# ")[1:])}


def weighted(line: str) -> tuple[str, int]:
    """A line without its weight, and how often it counts: "20* so" counts 20 times."""
    weight = _WEIGHT.match(line)
    return (line[weight.end() :], int(weight[1])) if weight else (line, 1)
