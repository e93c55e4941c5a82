"""What the Makefile installs is pinned: a dependency that is added gets a line in constraints.txt (`make lock`)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"kv-memory", "langchain-kv-memory"}


def names(lines: list[str]) -> set[str]:
    found = [re.match(r"[\w.-]+", line) for line in lines]
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [(".", ("dev", "llama")), ("integrations/langchain", ("agents", "test"))],
    ids=["core", "langchain"],
)
def test_every_dependency_is_pinned(folder: str, extras: tuple[str, ...]) -> None:
    file = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    project, build = file["project"], file["build-system"]["requires"]
    wanted = [
        *build,
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    assert names(wanted) - OURS - names(pinned) == set()
