"""The embedded model's file: made once, kept in the cache directory, never half."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kv_memory.errors import KVMemoryError
from kv_memory.gguf import cache, pocket_gguf, read_base
from kv_memory.pocket import model_path
from kv_memory.testing.chat import tiny_model
from tests.gguf.models import save


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kv_memory"


def test_it_is_the_pocket_model_and_made_once(folder: Path) -> None:
    path = pocket_gguf("f16")
    assert path.parent == folder
    made = path.stat().st_mtime_ns
    assert pocket_gguf("f16").stat().st_mtime_ns == made
    assert pocket_gguf("q8_0") != path
    known = read_base(path)
    assert known.name == "pocket"
    assert (known.weights, known.shape) == (read_base(model_path()).weights, read_base(model_path()).shape)
    assert len(list(folder.iterdir())) == 2


def test_another_model_is_another_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = set()
    for seed in (0, 1):
        model = save(tiny_model(seed), tmp_path / str(seed))
        monkeypatch.setattr(cache, "model_path", lambda model=model: model)
        paths.add(pocket_gguf("f32"))
    assert set(folder.iterdir()) == paths
    assert len(paths) == 2


def test_an_interruption_leaves_nothing(folder: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pocket_gguf("f16", interrupt)
    assert list(folder.iterdir()) == []
    assert read_base(pocket_gguf("f16")).name == "pocket"


def test_threads_and_processes_at_once(folder: Path) -> None:
    command = [sys.executable, "-c", "from kv_memory.gguf import pocket_gguf; print(pocket_gguf('f16'))"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(3) as threads:
        paths = set(threads.map(lambda _: pocket_gguf("f16"), range(3)))
    said, _ = other.communicate(timeout=120)
    assert {Path(said.strip())} == paths == set(folder.iterdir())
    assert read_base(paths.pop()).name == "pocket"
    assert torch.get_default_dtype() == torch.float32


def test_a_relative_cache_home_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "kv_memory"


def test_a_cache_that_cannot_be_made_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KVMemoryError, match="set XDG_CACHE_HOME"):
        pocket_gguf("f16")
