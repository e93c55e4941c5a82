"""The SQLite file of the log: one connection for all threads of a process, transactions, and their errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kv_memory.audit.errors import AuditError, explained
from kv_memory.audit.schema import check, migrate

_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_of_parents: list[sqlite3.Connection] = []
"""Connections of parent processes, which a forked child must neither use nor close."""


class Store:
    """The SQLite file, usable from several threads; several processes may have it open, also by forking."""

    def __init__(self, path: Path, *, timeout: float, reading: bool) -> None:
        self.path = path
        self._timeout = timeout
        self._reading = reading
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        """Number of times that the file was opened: each connection counts changes from its own beginning."""
        _stores.add(self)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, after those of all other processes; `durable`: on the disk when it returns.

        Raises AuditError when the file cannot be opened or written, or is busy for longer than the timeout.
        """
        with self._lock, self._explaining():
            connection = self._connected()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error is the one to report
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for queries. Raises AuditError when the file cannot be read."""
        with self._lock, self._explaining():
            yield self._connected()

    def version(self) -> tuple[int, int, int]:
        """Return a value that is another one after each committed change, by this process or any other.

        Costs no query: the first number counts for other connections (SQLite, `PRAGMA data_version`), the second for
        ours.
        """
        with self.reading() as connection:
            (others,) = connection.execute("PRAGMA data_version").fetchone()
            return others, connection.total_changes, self._opened

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of its own that sees the file as it is now; writers do not wait for it.

        Undecodable text comes back with surrogate escapes.
        """
        with self._explaining():
            connection = connect(self.path, timeout=self._timeout, reading=True)
            try:
                connection.text_factory = lambda data: data.decode(errors="surrogateescape")
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def close(self) -> None:
        """Close the file; it is opened again at the next use."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def forked(self) -> None:
        """Drop the parent's connection in a forked child, without closing it: that would release the parent's locks."""
        if self._connection is not None:
            _of_parents.append(self._connection)
        self._lock, self._connection = threading.RLock(), None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self.path, timeout=self._timeout, reading=self._reading)
            self._opened += 1
        return self._connection

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a column's name is damaged
            raise explained(error, self.path) from error


def connect(path: Path, *, timeout: float, reading: bool) -> sqlite3.Connection:
    """Open an audit log; make it when there is none, unless it is for `reading`.

    Raises sqlite3.Error, and AuditError when there is no such folder or file or it is not an audit log.
    """
    if not path.parent.is_dir() or (reading and not path.is_file()):
        raise AuditError(f"There is no {'audit log ' + str(path) if reading else 'folder ' + str(path.parent)}.")
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if reading else 'rwc'}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda data: data.decode(errors="replace")
        ours = check(connection, path)
        if reading and not ours:
            raise AuditError(f"{path} is empty: not an audit log.")
        if reading:
            connection.execute("PRAGMA query_only = ON")
        else:
            _write_ahead(connection, timeout)
            connection.execute("BEGIN IMMEDIATE")
            migrate(connection)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection, timeout: float) -> None:
    """Turn on write-ahead logging; SQLite does not wait by itself while another process does the same."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _after_fork() -> None:
    for store in list(_stores):
        store.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
