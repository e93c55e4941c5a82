"""The examples run, and say what they are meant to show."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[4] / "examples"


def answers(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"\b[1-9]\d* tokens erased", printed)
    return re.findall(r"^(?:agent|model): (.*?)(?:    \[.*)?$", printed, re.MULTILINE)


def test_agent(capsys: pytest.CaptureFixture[str]) -> None:
    said = answers("langchain_agent.py", capsys)
    assert (said[2], said[4]) == ("cancelled", "delivered")


def test_rag(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("langchain_rag.py", capsys)[:3] == ["19.00", "Ada Fenwick", "unknown"]


def test_guardrail(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("langchain_guardrail.py", capsys) == ["PWNED", "PWNED", "delivered", "2026-03-14"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("langchain_*.py")), ids=lambda path: path.name)
def test_each_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
