"""Whatever is done to the log behind its back is found, also by who knows all but the key."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kv_memory.audit import AuditError, AuditLog, AuditRow
from kv_memory.audit.records import REDACTIONS
from tests.audit.parts import KEY, retract, story, tamper

COLUMNS = [{"redactions": REDACTIONS}.get(name, name) for name in AuditRow.model_fields]
ROWS = 13

Copy = Callable[[], Path]
thorough = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "audit.db"
    log = AuditLog(path, key=KEY)
    story(log)
    with log.retraction(session="s", targets=["c1"], redactions=[]):
        pass
    with pytest.raises(KeyError), log.retraction(session="s", targets=["c1"], redactions=[]):
        raise KeyError
    log.close()
    return path


@pytest.fixture(scope="module")
def copy(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder, numbers = tmp_path_factory.mktemp("copies"), itertools.count()

    def make() -> Path:
        for old in folder.iterdir():
            old.unlink(missing_ok=True)
        path = folder / f"{next(numbers)}.db"
        path.write_bytes(original.read_bytes())
        return path

    return make


def found(path: Path) -> list[str]:
    log = AuditLog(path, key=KEY, reading=True)
    try:
        return [problem.text for problem in log.verify()]
    finally:
        log.close()


def rows(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    try:
        return connection.execute("SELECT * FROM rows ORDER BY number").fetchall()
    finally:
        connection.close()


def changed(value: Any, at: int, flip: int) -> Any:
    """The value with one byte changed, of the same type."""
    if value is None:
        return ""
    form = {int: "<q", float: "<d"}.get(type(value))
    data = bytearray(struct.pack(form, value) if form else value)
    if not data:
        return b"x"
    data[at % len(data)] ^= flip
    return struct.unpack(form, data)[0] if form else bytes(data)


def test_a_log_that_nobody_touched_has_no_problem(copy: Copy) -> None:
    path = copy()
    assert found(path) == []
    tamper(path)  # without a change
    assert found(path) == []
    assert len(rows(path)) == ROWS
    columns = sqlite3.connect(path).execute("SELECT name FROM pragma_table_info('rows')")
    assert [name for (name,) in columns] == COLUMNS


@thorough
@given(number=st.integers(1, ROWS), column=st.sampled_from(COLUMNS), at=st.integers(0, 400), flip=st.integers(1, 255))
def test_a_changed_byte(copy: Copy, number: int, column: str, at: int, flip: int) -> None:
    path = copy()
    before = rows(path)
    value = changed(before[number - 1][COLUMNS.index(column)], at, flip)
    assume(column != "number" or value not in range(1, ROWS + 1))
    new = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
    tamper(path, (f'UPDATE rows SET "{column}" = {new} WHERE number = ?', (value, number)))
    assume(rows(path) != before)
    problems = AuditLog(path, key=KEY, reading=True).verify()
    assert problems
    assert column == "number" or problems[0].row == number


@pytest.mark.parametrize("number", [1, 6, ROWS - 1])
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_every_column_of_every_sort_of_row(copy: Copy, number: int, column: str) -> None:
    path = copy()
    value = rows(path)[number - 1][COLUMNS.index(column)]
    emptied = "" if value is None else None
    if emptied is None and column in {"kind", "time", "session", "retraction", "pid", "process", "hash"}:
        emptied = "0"
    tamper(path, (f'UPDATE rows SET "{column}" = ? WHERE number = ?', (emptied, number)))
    assert found(path)


@thorough
@given(removed=st.sets(st.integers(1, ROWS), min_size=1))
def test_removed_rows(copy: Copy, removed: set[int]) -> None:
    path = copy()
    tamper(path, *(("DELETE FROM rows WHERE number = ?", (number,)) for number in removed))
    problems = AuditLog(path, key=KEY, reading=True).verify()
    assert problems[0].row == min(removed)
    assert len(problems) == sum(n - 1 not in removed for n in removed)  # one for each gap


@thorough
@given(pair=st.lists(st.integers(1, ROWS), min_size=2, max_size=2, unique=True), hashes_too=st.booleans())
def test_swapped_rows(copy: Copy, pair: list[int], hashes_too: bool) -> None:
    path = copy()
    columns = COLUMNS[1:] if hashes_too else COLUMNS[1:-1]
    before = rows(path)
    setting = ", ".join(f'"{column}" = CAST(? AS TEXT)' for column in columns)
    for mine, theirs in (pair, reversed(pair)):
        values = [before[theirs - 1][COLUMNS.index(column)] for column in columns]
        tamper(path, (f"UPDATE rows SET {setting} WHERE number = ?", (*values, mine)))
    assert found(path)


def head(count: int, path: Path) -> tuple[str, tuple[Any, ...]]:
    """Set the head back to an earlier row; its seal cannot be computed."""
    last = rows(path)[count - 1][-1].decode() if count else ""
    return "UPDATE head SET count = ?, hash = ?", (count, last)


@pytest.mark.parametrize("kept", range(ROWS))
@pytest.mark.parametrize("head_too", [False, True])
def test_a_truncated_tail(copy: Copy, kept: int, head_too: bool) -> None:
    path = copy()
    changes = [("DELETE FROM rows WHERE number > ?", (kept,))]
    tamper(path, *changes, *([head(kept, path)] if head_too else []))
    problems = found(path)
    missing = f"rows {kept + 1} to {ROWS} are" if kept + 1 < ROWS else f"row {ROWS} is"
    says = "The head record" if head_too else f"The end of the log was cut off: {missing} missing."
    assert len(problems) == 1
    assert problems[0].startswith(says)


def test_rows_that_were_put_in(copy: Copy) -> None:
    names = ", ".join(f'"{column}"' for column in COLUMNS)
    again = f"INSERT INTO rows ({names}) SELECT ?, {names.partition(', ')[2]} FROM rows WHERE number = 2"
    for number in (-3, 0, ROWS + 1, ROWS + 5):
        path = copy()
        tamper(path, (again, (number,)))
        assert found(path), number
        path = copy()
        tamper(path, (again, (number,)), ("UPDATE head SET count = count + 1", ()))
        assert found(path), number


def test_a_chain_that_was_computed_anew_without_the_key(copy: Copy) -> None:
    for key in (b"", b"guessed key 1234"):
        path = copy()
        log = sqlite3.connect(path).execute("SELECT id FROM log").fetchone()[0]
        changes, last = [], log
        for row in rows(path):
            held = {n: v.decode() if isinstance(v, bytes) else v for n, v in zip(COLUMNS, row, strict=True)}
            held = {n: v for n, v in held.items() if n != "hash" and v is not None}
            held["session"] = "somebody else's"
            said = json.dumps(["row", last, json.dumps(held, sort_keys=True)]).encode()
            last = hmac.new(key, said, "sha256").hexdigest() if key else hashlib.sha256(said).hexdigest()
            changes.append(("UPDATE rows SET session = ?, hash = ? WHERE number = ?", (held["session"], last, row[0])))
        tamper(path, *changes, ("UPDATE head SET hash = ?", (last,)))
        assert len(found(path)) == ROWS + 1


def test_the_same_row_from_another_log_with_the_same_key(copy: Copy, tmp_path: Path) -> None:
    other = AuditLog(tmp_path / "other.db", key=KEY)
    retract(other)
    other.close()
    path = copy()
    columns = rows(tmp_path / "other.db")[0][1:]
    assignments = ", ".join(f'"{c}" = CAST(? AS TEXT)' for c in COLUMNS[1:])
    tamper(path, (f"UPDATE rows SET {assignments} WHERE number = 1", columns))
    assert found(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE head SET count = 0",
        "UPDATE head SET hash = 'x'",
        "UPDATE head SET seal = 'x'",
        "DELETE FROM head",
        "INSERT INTO head SELECT * FROM head",
        "DROP TRIGGER rows_no_update",
        "CREATE TRIGGER quiet BEFORE INSERT ON rows BEGIN SELECT RAISE(IGNORE); END",
        "DROP INDEX rows_session",
        "ALTER TABLE rows RENAME COLUMN session TO sitting",
        "ALTER TABLE rows ADD COLUMN more TEXT",
        "DROP TABLE rows",
    ],
)
def test_the_head_and_the_structure(copy: Copy, change: str) -> None:
    path = copy()
    if "head" in change:
        tamper(path, (change, ()))
    else:
        connection = sqlite3.connect(path)
        connection.execute(change)
        connection.close()
    assert found(path)


def test_another_identity_is_another_key(copy: Copy) -> None:
    for change in ("UPDATE log SET id = 'x'", "UPDATE log SET created = 'x'", "DELETE FROM log"):
        path = copy()
        tamper(path, (change, ()))
        with pytest.raises(AuditError, match="key"):
            found(path)


def test_an_older_end_takes_no_new_rows(copy: Copy) -> None:
    """Or the new head would make it genuine."""
    path = copy()
    tamper(path, ("DELETE FROM rows WHERE number > 4", ()), head(4, path))
    with pytest.raises(AuditError, match="takes no more rows"):
        retract(AuditLog(path, key=KEY))
    path = copy()
    tamper(path, ("DELETE FROM rows WHERE number > 4", ()))
    retract(AuditLog(path, key=KEY))
    assert found(path) == [f"Rows 5 to {ROWS} are missing."]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rows SET reason = 'another'",
        "DELETE FROM rows WHERE number = 13",
        "REPLACE INTO rows SELECT * FROM rows WHERE number = 3",
        "INSERT INTO rows (number, kind, time, session, retraction, pid, process, hash) SELECT 99, 1, 1, 1, 1, 1, 1, 1",
        "UPDATE head SET count = 4",
        "DELETE FROM head",
        "UPDATE log SET id = 'x'",
        "DELETE FROM log",
    ],
)
def test_the_database_itself_forbids_changes(copy: Copy, change: str) -> None:
    connection = sqlite3.connect(copy(), isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(change)
    connection.close()


@thorough
@given(at=st.integers(0, 1 << 20), flip=st.integers(1, 255))
def test_a_changed_byte_of_the_file_is_found_or_changes_no_row(original: bytes, copy: Copy, at: int, flip: int) -> None:
    path = copy()
    whole = AuditLog(path, key=KEY, reading=True)
    before = (whole.entries(), whole.retracted("s"), whole.unfinished())
    whole.close()
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= flip
    path.write_bytes(data)
    try:
        if found(path):
            return
        log = AuditLog(path, key=KEY, reading=True)
        assert (log.entries(), log.retracted("s"), log.unfinished()) == before
        log.close()
    except AuditError:
        pass


def test_an_emptied_log_does_not_begin_again_beside_its_key(path: Path) -> None:
    with AuditLog(path).retraction(session="s", targets=["c1"], redactions=[]):
        pass
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith(".key"):
            file.unlink()
    with pytest.raises(AuditError, match="emptied or replaced"):
        AuditLog(path)
    AuditLog(path.with_name("other.db"))
    for ending in ("", "-wal", "-shm"):
        other = path.with_name(f"other.db{ending}")
        if other.exists():
            other.replace(path.with_name(f"{path.name}{ending}"))
    with pytest.raises(AuditError, match="key is not the one"):
        AuditLog(path)
