"""The chain of rows: each row's hash covers the row before it, and the head, keyed, says where the chain ends."""

from __future__ import annotations

import math
import secrets
import sqlite3
from datetime import UTC, datetime

from kv_memory.audit.errors import AuditError
from kv_memory.audit.key import Key, Value


def is_new(connection: sqlite3.Connection) -> bool:
    """Whether this log has no chain yet."""
    return connection.execute("SELECT 1 FROM log").fetchone() is None


def begin(connection: sqlite3.Connection, key: Key) -> None:
    """Start the chain of a new log, within the transaction under way."""
    log = secrets.token_hex(16)
    now = datetime.now(UTC).isoformat()
    connection.execute("INSERT INTO log VALUES (?, ?, ?)", (log, now, key.hash("log", log, now)))
    connection.execute("INSERT INTO head VALUES (0, ?, ?)", (log, head_seal(key, log, 0, log)))


def log_id(connection: sqlite3.Connection, key: Key) -> str:
    """The id of the log, which the hash of its first row covers; AuditError when the key is another log's."""
    row = connection.execute("SELECT id, created, key_check FROM log").fetchone()
    if row is None or row["key_check"] != key.hash("log", str(row["id"]), str(row["created"])):
        raise AuditError("The key is not the one of this audit log, or the log's record of its key was changed.")
    return str(row["id"])


def head_seal(key: Key, log: str, count: int, last: str) -> str:
    """What makes a head genuine."""
    return key.hash("head", log, str(count), last)


def append(connection: sqlite3.Connection, key: Key, columns: dict[str, Value | None]) -> int:
    """Add a row and move the head, within the transaction under way; the row's number.

    AuditError when the head is not genuine: a new one would hide what was done to the log.
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
    """The value as SQLite gives it back, so that its hash stays right."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()  # half a surrogate pair is no text
    if isinstance(value, float):
        return None if math.isnan(value) else value + 0.0  # no negative zero, and what is not a number is not known
    return value
