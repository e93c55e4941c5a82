"""The texts that worlds are made of: files of sections, each `# name` and its lines, after an introduction."""

from __future__ import annotations

import re
from pathlib import Path

_WEIGHT = re.compile(r"(\d+)\* ")


def read_sections(file: str) -> dict[str, list[str]]:
    """Read the lines of each section from a file of this package."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return {name: lines for name, *lines in (block.split("\n") for block in text.rstrip("\n").split("\n\n# ")[1:])}


def weighted(line: str) -> tuple[str, int]:
    """Return a line without its weight, and its weight: "20* so" counts 20 times."""
    weight = _WEIGHT.match(line)
    return (line[weight.end() :], int(weight[1])) if weight else (line, 1)
