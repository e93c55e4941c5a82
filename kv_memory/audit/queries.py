"""The queries of the audit log."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from kv_memory.audit.records import AuditRow, from_row
from kv_memory.conversation.redactions import Redaction
from kv_memory.keys import Value

_LOGGED = "SELECT * FROM rows WHERE session = ? AND kind IN ('intent', 'undone') ORDER BY number"

_UNFINISHED = """
SELECT * FROM rows AS intent WHERE kind = 'intent' AND NOT EXISTS (
    SELECT 1 FROM rows
    WHERE kind = 'outcome' AND session = intent.session AND retraction = intent.retraction AND status <> 'queued'
) ORDER BY number
"""


def rows(connection: sqlite3.Connection, wanted: Mapping[str, Value | None], limit: int | None) -> list[AuditRow]:
    """Return the rows with these values in these columns, oldest first; with `limit`, only that many of the latest."""
    where = " AND ".join(f"{column} = ?" for column in wanted) or "1"
    found = connection.execute(
        f"SELECT * FROM rows WHERE {where} ORDER BY number DESC LIMIT ?",
        (*wanted.values(), -1 if limit is None else limit),
    )
    return [from_row(row) for row in found][::-1]


@dataclass(frozen=True)
class Logged:
    """A redaction that a session's retraction asked for, as the log holds it."""

    retraction: str
    redaction: Redaction
    in_force: bool
    """Whether it was not undone later."""


def logged(connection: sqlite3.Connection, session: str) -> list[Logged]:
    """Return the redactions that the intents of a session asked for, each once for each retraction."""
    held: dict[str, dict[Redaction, bool]] = {}
    for found in connection.execute(_LOGGED, (session,)):
        row = from_row(found)
        known = held.setdefault(row.retraction, {})
        if row.kind == "intent":
            known |= dict.fromkeys(row.redactions, True)
        else:
            undone = [redaction for redaction in known if not row.redactions or redaction in row.redactions]
            known |= dict.fromkeys(undone, False)
    return [Logged(name, redaction, in_force) for name, known in held.items() for redaction, in_force in known.items()]


def unfinished(connection: sqlite3.Connection) -> list[AuditRow]:
    """Return the intents without a final outcome."""
    return [from_row(row) for row in connection.execute(_UNFINISHED)]
