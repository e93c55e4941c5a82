"""The check that an audit log is as it was written: finds changed, removed, swapped and added rows, and a cut-off
end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from kv_memory.audit.chain import head_seal, log_id
from kv_memory.audit.schema import intended, objects
from kv_memory.keys import Key


class Problem(BaseModel):
    """One thing that is wrong with the log."""

    model_config = ConfigDict(frozen=True)

    row: int | None
    """Number of the row; None for a problem of no particular row."""
    text: str
    """Description of the problem, in one sentence."""


def problems(connection: sqlite3.Connection, key: Key) -> Iterator[Problem]:
    """Yield all that is wrong with the log.

    Raises AuditError for the key of another log, sqlite3.Error for a file that cannot be read.
    """
    structure = list(_structure(connection))
    yield from structure
    if any(problem.text.startswith("The table") for problem in structure):
        return  # the columns of a changed table cannot be trusted
    log = log_id(connection, key)
    number, last = 0, log
    for found in connection.execute("SELECT * FROM rows ORDER BY number"):
        row = dict(found)
        stored = row.pop("hash")
        missing = found["number"] - number - 1
        if missing > 0:
            yield Problem(row=number + 1, text=f"{_rows(number + 1, found['number'] - 1).capitalize()} missing.")
        elif missing < 0:
            yield Problem(row=found["number"], text=f"Row {found['number']} was inserted: rows count from 1.")
        elif stored != key.row(last, row):
            text = f"Row {found['number']} does not match its hash: it was changed, or the hash of the row before it."
            yield Problem(row=found["number"], text=text)
        number, last = found["number"], str(stored)
    yield from _head(connection, key, log, number, last)


def _head(connection: sqlite3.Connection, key: Key, log: str, number: int, last: str) -> Iterator[Problem]:
    heads = connection.execute("SELECT count, hash, seal FROM head").fetchall()
    if len(heads) != 1:
        yield Problem(row=None, text=f"The log has {len(heads)} head records, not one: it was changed from outside.")
        return
    count, end, seal = heads[0]
    if seal != head_seal(key, log, count, end):
        yield Problem(row=None, text="The head record, which says where the log ends, was changed from outside.")
    elif count > number:
        yield Problem(row=number + 1, text=f"The end of the log was cut off: {_rows(number + 1, count)} missing.")
    elif count < number:
        yield Problem(row=count + 1, text=f"The log ends at row {count}, but {_rows(count + 1, number)} after it.")
    elif end != last:
        yield Problem(
            row=number or None, text=f"The hash of the last row, {number}, is not the one of the head record."
        )


def _structure(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Check the file itself, its tables, and the triggers that forbid changes."""
    for (said,) in connection.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield Problem(row=None, text=f"The database is damaged: {said}.")
    found, right = objects(connection), intended()
    for name in sorted(found.keys() | right.keys()):
        if found.get(name) != right.get(name):
            what = "is missing" if name not in found else "was changed" if name in right else "was added"
            yield Problem(row=None, text=f"The {name} {what}: the log's structure was changed from outside.")


def _rows(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"
