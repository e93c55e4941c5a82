"""Whatever is wrong is one clear sentence, and nothing of the work was done."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kv_memory.audit import AuditError, AuditLog, schema
from kv_memory.errors import KVMemoryError
from tests.audit.parts import KEY, ended, in_child, redaction, retract, story


def says(call: Callable[[], object]) -> str:
    with pytest.raises(AuditError) as raised:
        call()
    text = str(raised.value)
    assert isinstance(raised.value, KVMemoryError)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_file_of_something_else(path: Path) -> None:
    path.write_bytes(b"# Not a database, but notes about one. " * 40)
    assert "not an audit log, nor any other SQLite database" in says(lambda: AuditLog(path))
    assert "not an audit log, nor any other SQLite database" in says(lambda: AuditLog(path, reading=True))
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()
    assert "is an SQLite database, but not an audit log" in says(lambda: AuditLog(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_no_file(path: Path, tmp_path: Path) -> None:
    assert "There is no audit log" in says(lambda: AuditLog(path, reading=True))
    assert "There is no folder" in says(lambda: AuditLog(tmp_path / "no" / "such" / "audit.db"))
    assert "it and its folder have to be writable" in says(lambda: AuditLog(tmp_path))
    path.touch()
    assert "is empty" in says(lambda: AuditLog(path, reading=True))
    assert AuditLog(path).verify() == []  # an empty file may become a log


def test_keys(path: Path) -> None:
    assert "has at least 16 bytes" in says(lambda: AuditLog(path, key=b"short"))
    log = AuditLog(path)
    retract(log)
    log.close()
    key = path.with_name("audit.db.key")
    assert "not the one of this audit log" in says(lambda: AuditLog(path, key=KEY))
    assert "not the one of this audit log" in says(lambda: AuditLog(path, key=KEY, reading=True).verify())
    key.chmod(0o644)
    assert "can be read by others" in says(lambda: AuditLog(path))
    key.chmod(0o600)
    right = key.read_text()
    key.write_text("no key")
    assert "does not hold a key" in says(lambda: AuditLog(path))
    key.write_text(right[::-1])
    assert "not the one of this audit log" in says(lambda: AuditLog(path))
    key.unlink()
    assert "is missing" in says(lambda: AuditLog(path))  # and none is made in its place
    assert not key.exists()
    without = AuditLog(path, reading=True)
    assert len(without.entries()) == 2
    assert "is missing" in says(without.verify)
    key.write_text(right)
    key.chmod(0o600)
    assert AuditLog(path).verify() == []


def test_busy(log: AuditLog, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = AuditLog(path, reading=True)
    assert waiting.entries() == []  # to look up it waits for nobody
    assert "is busy" in says(lambda: AuditLog(path, timeout=0.05))
    other.execute("ROLLBACK")
    quick = AuditLog(path, timeout=0.05)
    other.execute("BEGIN IMMEDIATE")
    worked = False

    def work() -> None:
        nonlocal worked
        with quick.retraction(session="s", targets=["c1"], redactions=[redaction(1)]):
            worked = True

    assert "is busy" in says(work)
    assert not worked
    other.execute("ROLLBACK")
    retract(quick)
    assert quick.verify() == []


def test_the_work_is_done_but_its_outcome_cannot_be_written(path: Path) -> None:
    log = AuditLog(path, timeout=0.05)
    other = sqlite3.connect(path, isolation_level=None)

    def work() -> None:
        with log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]):
            other.execute("BEGIN IMMEDIATE")

    text = says(work)
    assert "is done, but its outcome was not recorded" in text
    assert "is busy" in text
    other.execute("ROLLBACK")
    with (
        pytest.raises(MemoryError) as raised,
        log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]),
    ):
        other.execute("BEGIN IMMEDIATE")
        raise MemoryError
    assert "is busy" in raised.value.__notes__[0]  # the error of the work is what is raised
    other.execute("ROLLBACK")
    assert len(log.unfinished()) == 2
    assert log.verify() == []


def test_a_full_disk(log: AuditLog) -> None:
    with log._store.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    written = 0
    with pytest.raises(AuditError, match="the disk is full"):
        for _ in range(200):
            retract(log)
            written += 1
    assert len(log.entries()) in (2 * written, 2 * written + 1)
    assert log.verify() == []
    with log._store.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    retract(log)
    assert log.verify() == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    story(log := AuditLog(path))
    log.close()

    def as_anybody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        says(lambda: AuditLog(path))
        text = says(lambda: AuditLog(tmp_path / "new.db"))
        assert "writable" in text

    for folder in tmp_path.parents:  # pytest's own are closed to others
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o011)
    tmp_path.chmod(0o555)
    try:
        assert ended(in_child(as_anybody)) == 0
    finally:
        tmp_path.chmod(0o755)


def test_reading_changes_nothing(log: AuditLog, path: Path) -> None:
    retract(log)
    log.close()
    before = path.read_bytes()
    reading = AuditLog(path, reading=True)
    assert "writable" in says(lambda: retract(reading))
    assert len(reading.entries()) == 2
    reading.close()
    assert path.read_bytes() == before


def test_rows_that_are_no_rows(log: AuditLog, path: Path) -> None:
    retract(log)
    for change in ("edits = 'x'", "kind = 'x'", "time = 'x'", "tokens_erased = 'x'"):
        other = sqlite3.connect(path)
        other.execute("DROP TRIGGER IF EXISTS rows_no_update")
        other.execute(f"UPDATE rows SET {change} WHERE number = 1")
        other.commit()
        assert "Row 1 of the audit log cannot be read" in says(log.entries)
        other.close()


def test_a_newer_schema_is_refused_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retract(first := AuditLog(path))
    first.close()
    with monkeypatch.context() as later:
        later.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, ("colours", ("ALTER TABLE rows ADD COLUMN colour",))])
        log = AuditLog(path)  # an older log is brought up to date; its rows stay as they are
        retract(log)
        assert log.verify() == []
        assert len(log.entries()) == 4
        log.close()
    text = says(lambda: AuditLog(path))
    assert "schema version 2 ('colours')" in text
    assert "upgrade" in text
    assert "'colours'" in says(lambda: AuditLog(path, reading=True))
