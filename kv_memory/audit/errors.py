"""The error of the audit log, and SQLite's errors as one sentence each."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kv_memory.errors import KVMemoryError


class AuditError(KVMemoryError):
    """The audit log cannot be opened, read or written; nothing was written."""


def explained(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> AuditError:
    """Return an SQLite error as an AuditError whose one sentence says what to do."""
    name = getattr(error, "sqlite_errorname", "")
    log = f"The audit log {path}"
    if name.startswith("SQLITE_BUSY"):
        return AuditError(f"{log} is busy: another process has been writing to it for too long; try again.")
    if name.startswith("SQLITE_FULL"):
        return AuditError(f"{log} cannot be written: the disk is full.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return AuditError(f"{log} cannot be opened for writing: it and its folder have to be writable.")
    if name.startswith("SQLITE_NOTADB"):
        return AuditError(f"{path} is not an audit log, nor any other SQLite database.")
    if name.startswith("SQLITE_CORRUPT") or isinstance(error, UnicodeDecodeError):
        return AuditError(f"{log} is damaged ({error}); restore it from a copy, or start a new one.")
    return AuditError(f"{log} cannot be used: {error}.")
