"""The queries of the audit log."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from kv_memory.audit.key import Value
from kv_memory.audit.records import AuditRow, SealedRedaction, from_row

_WISHES = "SELECT * FROM rows WHERE session = ? AND kind IN ('intent', 'undone') ORDER BY number"

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


def wished(connection: sqlite3.Connection, session: str) -> list[SealedRedaction]:
    """Return the redactions that the intents of a session asked for, less those that were undone later."""
    held: dict[str, dict[SealedRedaction, None]] = {}
    for found in connection.execute(_WISHES, (session,)):
        row = from_row(found)
        if row.kind == "intent":
            held.setdefault(row.retraction, {}).update(dict.fromkeys(row.redactions))
        else:
            left = held.pop(row.retraction, {}) if row.redactions else {}
            held[row.retraction] = {redaction: None for redaction in left if redaction not in row.redactions}
    return list(dict.fromkeys(redaction for redactions in held.values() for redaction in redactions))


def unfinished(connection: sqlite3.Connection) -> list[AuditRow]:
    """Return the intents without a final outcome."""
    return [from_row(row) for row in connection.execute(_UNFINISHED)]
