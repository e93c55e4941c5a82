"""The README's example runs, and says what the README says that it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_examples_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.toml").write_text('heal = "idle"\n')
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    before, report, after = capsys.readouterr().out.splitlines()
    assert before == "delivered"
    assert report.split()[0] == "exact"
    assert after == "unknown"


def test_every_eraser_is_in_the_table() -> None:
    from kv_memory.erasers import ERASERS

    listed = re.findall(r"^\| `([\w+]+)`", README, re.MULTILINE)
    assert sorted(listed) == sorted(ERASERS)
