"""`kv-memory export-gguf`: what it writes, and that whatever is wrong is one line and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kv_memory.testing.adapters import save_lora
from tests.gguf.models import metadata, random_model, save
from tests.test_cli import Run, run

__all__ = ["run"]  # the fixture


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(random_model("qwen2"), tmp_path / "model")


def test_a_model_and_its_eraser(run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, adapter = tmp_path / "model.gguf", tmp_path / "eraser.gguf"
    eraser = save_lora(random_model("qwen2"), tmp_path / "eraser")
    capsys.readouterr()  # transformers shows how it saves a model
    assert run("export-gguf", "--model", model, "--out", whole) == (0, f"wrote {whole}\n", "")
    assert run("export-gguf", eraser, "--base", model, "--out", adapter) == (0, f"wrote {adapter}\n", "")
    assert metadata(whole)["general.type"] == "model"
    assert metadata(adapter)["general.type"] == "adapter"
    code, _, err = run("export-gguf", eraser, "--out", adapter)  # without --base it would be for the pocket model
    assert code == 2
    assert "trained for it" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "/no/model"], "/no/model"),
        (["--base", "/no/model"], "--model"),
        (["/no/eraser"], "/no/eraser"),
        (["/no/eraser", "--dtype", "f16"], "--base"),
        (["/no/eraser", "--model", "/no/model"], "--base"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, args: list[str], says: str, tmp_path: Path) -> None:
    code, out, err = run("export-gguf", *args, "--out", tmp_path / "x.gguf")
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_which(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "kv_memory.gguf", raising=False)
    code, _, err = run("export-gguf", "--out", tmp_path / "x.gguf")
    assert (code, err) == (2, "kv-memory: GGUF files need the extra llama: pip install 'kv-memory[llama]'.\n")
