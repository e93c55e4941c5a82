"""The tables of the audit log, as numbered migrations. A migration adds; it never changes a row that is there."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from kv_memory.audit.errors import AuditError

_APPLICATION = 0x6B766D61
"""SQLite's application_id, which says whose file it is: "kvma"."""

_FIRST = (
    f"PRAGMA application_id = {_APPLICATION}",
    "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL)",
    # which log it is, and by which key; one row
    "CREATE TABLE log (id TEXT NOT NULL, created TEXT NOT NULL, key_check TEXT NOT NULL)",
    # how many rows there are and the hash of the last, keyed; one row
    "CREATE TABLE head (count INTEGER NOT NULL, hash TEXT NOT NULL, seal TEXT NOT NULL)",
    """CREATE TABLE rows (
        number INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        time TEXT NOT NULL,
        session TEXT NOT NULL,
        retraction TEXT NOT NULL,
        "by" TEXT,
        reason TEXT,
        targets TEXT,
        spans TEXT,
        edits TEXT,
        pid INTEGER NOT NULL,
        process TEXT NOT NULL,
        status TEXT,
        eraser TEXT,
        tokens_erased INTEGER,
        tokens_recomputed INTEGER,
        seconds REAL,
        fidelity REAL,
        error TEXT,
        hash TEXT NOT NULL
    )""",
    "CREATE INDEX rows_session ON rows (session)",
    "CREATE INDEX rows_retraction ON rows (retraction)",
    """CREATE TRIGGER rows_only_append BEFORE INSERT ON rows
        WHEN NEW.number IS NOT (SELECT count + 1 FROM head)
        BEGIN SELECT RAISE(ABORT, 'rows are only appended'); END""",
    *(
        f"""CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table}: {change} is forbidden in an audit log'); END"""
        for table, change in (
            ("rows", "UPDATE"),
            ("rows", "DELETE"),
            ("log", "UPDATE"),
            ("log", "DELETE"),
            ("head", "DELETE"),
        )
    ),
    """CREATE TRIGGER head_only_grows BEFORE UPDATE ON head
        WHEN NEW.count IS NOT OLD.count + 1
        BEGIN SELECT RAISE(ABORT, 'the head counts every row'); END""",
)

MIGRATIONS: list[tuple[str, tuple[str, ...]]] = [("first", _FIRST)]
"""Names of the migrations with their statements; append only. A migration's number is its place, from 1."""


def check(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether this is an audit log; False for an empty file.

    Raises AuditError for a database of something else, or an audit log of a newer version of this library.
    """
    # In this order: another process may commit the first migration, which makes both, between the two statements.
    tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
    if not ours:
        if tables:
            raise AuditError(f"{path} is an SQLite database, but not an audit log; choose another file.")
        return False
    known = {(number, name) for number, (name, _) in enumerate(MIGRATIONS, 1)}
    applied = [tuple(row) for row in connection.execute("SELECT number, name FROM migrations ORDER BY number")]
    newer = [f"{number} ({name!r})" for number, name in applied if (number, name) not in known]
    if newer:
        raise AuditError(
            f"The audit log {path} has schema version {newer[-1]}, which is newer than this kv_memory; upgrade it."
        )
    return True


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, within the open transaction."""
    applied = 0
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone():
        applied = connection.execute("SELECT count(*) FROM migrations").fetchone()[0]
    for number, (name, statements) in enumerate(MIGRATIONS[applied:], applied + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, name, datetime.now(UTC).isoformat()))


def objects(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL that made each table, index and trigger, by kind and name."""
    made = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return dict(made.fetchall())


def intended() -> dict[str, str]:
    """Return what `objects` finds in a log that nobody has tampered with."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(connection)
        return objects(connection)
    finally:
        connection.close()
