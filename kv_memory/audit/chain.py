"""The hash chain of the log: each row's hash covers the row before it, and a keyed head says where the chain ends."""

from __future__ import annotations

import math
import secrets
import sqlite3
from datetime import UTC, datetime

from kv_memory.audit.errors import AuditError
from kv_memory.keys import Key, Value


def is_new(connection: sqlite3.Connection) -> bool:
    """Return whether this log has no chain yet."""
    return connection.execute("SELECT 1 FROM log").fetchone() is None


def begin(connection: sqlite3.Connection, key: Key) -> None:
    """Start the chain of a new log, within the open transaction."""
    log = secrets.token_hex(16)
    now = datetime.now(UTC).isoformat()
    connection.execute("INSERT INTO log VALUES (?, ?, ?)", (log, now, key.hash("log", log, now)))
    connection.execute("INSERT INTO head VALUES (0, ?, ?)", (log, head_seal(key, log, 0, log)))


def log_id(connection: sqlite3.Connection, key: Key) -> str:
    """Return the id of the log, which the hash of its first row covers.

    Raises AuditError when the key belongs to another log.
    """
    row = connection.execute("SELECT id, created, key_check FROM log").fetchone()
    if row is None or row["key_check"] != key.hash("log", str(row["id"]), str(row["created"])):
        raise AuditError("The key is not the one of this audit log, or the log's record of its key was changed.")
    return str(row["id"])


def head_seal(key: Key, log: str, count: int, last: str) -> str:
    """Return the keyed hash that makes a head genuine."""
    return key.hash("head", log, str(count), last)


def append(connection: sqlite3.Connection, key: Key, columns: dict[str, Value | None]) -> int:
    """Add a row, move the head to it and return the row's number, within the open transaction.

    Raises AuditError when the head is not genuine: a new one would hide what was done to the log.
    """
    log = log_id(connection, key)
    head = connection.execute("SELECT count, hash, seal FROM head").fetchone()
    if head is None or head["seal"] != head_seal(key, log, head["count"], head["hash"]):
        raise AuditError("The head of the audit log was changed from outside, so it takes no more rows; verify it.")
    number = int(head["count"]) + 1
    row: dict[str, Value | None] = {"number": number, **{name: storable(v) for name, v in columns.items()}}
    row["hash"] = key.row(head["hash"], row)
    names = ", ".join(f'"{name}"' for name in row)
    connection.execute(f"INSERT INTO rows ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    connection.execute(
        "UPDATE head SET count = ?, hash = ?, seal = ?",
        (number, row["hash"], head_seal(key, log, number, str(row["hash"]))),
    )
    return number


def storable(value: Value | None) -> Value | None:
    """Return the value as SQLite gives it back, so that its hash stays right."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be encoded
    if isinstance(value, float):
        return None if math.isnan(value) else value + 0.0  # SQLite stores NaN as NULL and -0.0 as 0.0
    return value
