"""Files that are replaced whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kv_memory.errors import KVMemoryError
from kv_memory.file_io import replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    with replacing(path) as draft:
        draft.write_text("new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with (
        pytest.raises(KVMemoryError, match="cannot be written: No such file"),
        replacing(tmp_path / "no" / "a.json"),
    ):
        pass
    shutil.rmtree(tmp_path)
