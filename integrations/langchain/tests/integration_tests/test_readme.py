"""The README's first example runs, and says what the README says that it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    before, report, after = capsys.readouterr().out.splitlines()
    assert (before, report.split()[0], after) == ("delivered", "exact", "unknown")
