"""The audit log of retractions: what is written when, and what a new process reads from it after a restart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kv_memory.audit import chain, process, queries
from kv_memory.audit.attempt import Attempt, Outcome
from kv_memory.audit.errors import AuditError
from kv_memory.audit.key import beside, bind, key_of, log_of, make_key, read_key
from kv_memory.audit.records import REDACTIONS, AuditRow, Kind, SpanRecord, TargetRecord, as_json
from kv_memory.audit.store import Store
from kv_memory.audit.verify import Problem, problems
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.redactions import Fingerprints, Redaction
from kv_memory.conversation.spans import Target, target_name
from kv_memory.keys import Key, Value

if TYPE_CHECKING:
    from kv_memory.policy.authority import Spanned

_DURABLE: frozenset[Kind] = frozenset({"intent", "refusal", "undone"})
"""Kinds of rows that must survive a power cut. A retraction without its outcome counts as interrupted, which is
safe."""


class AuditLog:
    """An append-only record of retractions in an SQLite file; usable from several threads and processes at once.

    ```python
    log = AuditLog("audit.db")
    with log.retraction(
        session="thread-1", targets=["call_1"], redactions=redactions, by="support", reason="wrong price"
    ) as it:
        ...
        it.outcome = Outcome("exact", eraser="recompute", tokens_erased=120, tokens_recomputed=800)
    ```

    It holds ids, reasons and names as they are given, and keyed hashes of texts, but never a text. Somebody who has the
    file but not the key can neither guess the texts nor change rows without `verify` finding it. An old copy of the
    whole file put in its place is not found.
    """

    def __init__(
        self, path: str | Path, *, key: bytes | None = None, timeout: float = 10.0, reading: bool = False
    ) -> None:
        """Open the log, or make it.

        `key`: at least 16 bytes that nobody can guess; by default those in the file beside the log, `<name>.key`, which
        is made together with it. `timeout`: seconds to wait for other processes. `reading`: open it for looking up and
        verifying only; nothing is made or changed, and only `verify` needs the key.

        Raises AuditError when the file cannot be opened or made, is of something else or of a newer version, or when
        the key is missing, readable by others, or not this log's.
        """
        self.path = Path(path).expanduser()
        self._key = None if key is None else key_of(key)
        self._store = Store(self.path, timeout=timeout, reading=reading)
        self._logged: dict[str, list[queries.Logged]] = {}
        """Redactions of each session that was asked for since the log last changed."""
        self._logged_at: tuple[int, ...] = ()
        if reading:
            with self._store.reading():
                return
        with self._store.transaction() as connection:
            new = chain.is_new(connection)
            if self._key is None:
                file = beside(self.path)
                self._key = key_of(make_key(file) if new else read_key(file))
                bound = log_of(file)
            else:
                file, bound = None, None
            if new and bound is None:
                chain.begin(connection, self._key)
            found = None if new and bound is not None else chain.log_id(connection, self._key)
            if bound is not None and found != bound:
                raise AuditError(
                    f"The audit log {self.path} was emptied or replaced: its key {file} is that of another log; put "
                    "the log back, or move the key away to start a new one."
                )
        if file is not None and bound is None and found is not None:
            bind(file, found)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @contextmanager
    def retraction(
        self,
        *,
        session: str,
        targets: Sequence[Target],
        redactions: Iterable[Redaction],
        spans: Iterable[Spanned] = (),
        by: str = "",
        reason: str = "",
    ) -> Iterator[Attempt]:
        """Log a retraction: the intent is on the disk before the block begins, the outcome is written after it.

        What is set on the `Attempt` becomes the outcome; a block that raises gets the outcome `failed` with the error's
        class. `spans`: what the targets named. Raises AuditError when the intent cannot be written (the block does not
        run then), or the outcome cannot.
        """
        attempt = Attempt()
        self._write("intent", session, attempt.id, by=by, reason=reason, **self._named(targets, spans, redactions))
        started = time.perf_counter()
        try:
            yield attempt
        except BaseException as error:
            try:
                seconds = time.perf_counter() - started
                failed = Outcome("failed", attempt.outcome.eraser, seconds=seconds, error=type(error).__name__)
                self.outcome(session, attempt.id, failed)
            except AuditError as unwritten:
                error.add_note(str(unwritten))
            raise
        if attempt.outcome.seconds is None:
            attempt.outcome.seconds = time.perf_counter() - started
        try:
            self.outcome(session, attempt.id, attempt.outcome)
        except AuditError as error:
            raise AuditError(f"Retraction {attempt.id} is done, but its outcome was not recorded. {error}") from error

    def also(
        self,
        session: str,
        retraction: str,
        redactions: Iterable[Redaction],
        *,
        spans: Iterable[Spanned] = (),
        by: str = "",
        reason: str = "",
    ) -> None:
        """Log that a running retraction takes out more: another intent, on the disk before that is erased."""
        self._write("intent", session, retraction, by=by, reason=reason, **self._named((), spans, redactions))

    def inherited(
        self, session: str, redactions: Iterable[Redaction], former: Iterable[Redaction], *, origin: str, by: str = ""
    ) -> str:
        """Log what a session begins with as a fork of the session `origin`; return the id that stands for it.

        `redactions`: those in force. `former`: those that were undone; histories may hold tombstones of them.
        """
        attempt, reason, undone = Attempt(), f"forked from {origin}", self.seal(former)
        named = self._named((), (), [*redactions, *undone])
        with self._store.transaction() as connection:
            self._append(connection, "intent", session, attempt.id, {"by": by, "reason": reason, **named})
            self._append(connection, "outcome", session, attempt.id, asdict(Outcome("inherited")))
            if undone:
                held: dict[str, Value | None] = {"by": by, "reason": reason, REDACTIONS: as_json(undone)}
                self._append(connection, "undone", session, attempt.id, held)
        return attempt.id

    def outcome(self, session: str, retraction: str, outcome: Outcome) -> None:
        """Log the outcome of a retraction; a second time for one that was `queued`, once it has been applied."""
        self._write("outcome", session, retraction, **asdict(outcome))

    def refusal(
        self,
        *,
        session: str,
        targets: Sequence[Target],
        spans: Iterable[Spanned] = (),
        by: str = "",
        reason: str = "",
        error: str | None = None,
    ) -> str:
        """Log a request that was refused for want of authority and return the row's id.

        `error`: class name of the exception that the caller got.
        """
        attempt = Attempt()
        named = self._named(targets, spans, ())
        self._write("refusal", session, attempt.id, by=by, reason=reason, status="refused", error=error, **named)
        return attempt.id

    def healed(
        self, session: str, retraction: str, *, tokens_recomputed: int | None = None, seconds: float | None = None
    ) -> None:
        """Log that an approximate retraction has become exact."""
        self._write(
            "healed",
            session,
            retraction,
            status="exact",
            eraser="recompute",
            tokens_recomputed=tokens_recomputed,
            seconds=seconds,
        )

    def undone(
        self,
        session: str,
        retraction: str,
        *,
        redactions: Iterable[Redaction] | None = None,
        by: str = "",
        reason: str = "",
        status: str | None = None,
    ) -> None:
        """Log that a retraction, or only these `redactions` of it, was undone: `retracted` no longer counts them.

        `status`: whether the cells are put back, or the text is to be prefilled again.
        """
        part = None if redactions is None else self.seal(redactions)
        if part != ():
            held = None if part is None else as_json(part)
            self._write("undone", session, retraction, by=by, reason=reason, status=status, **{REDACTIONS: held})

    def seal(self, redactions: Iterable[Redaction]) -> tuple[Redaction, ...]:
        """Return the redactions as the log may hold them: with digests under its own key.

        Of one that was made without that key the digests of parts are dropped: they could be guessed.
        """
        return tuple(r if r.key == self.key.id else self._sealed(r) for r in redactions)

    def _sealed(self, redaction: Redaction) -> Redaction:
        digests = {"digest": self.key.seal(redaction.digest), "key": self.key.id, "fingerprints": Fingerprints()}
        after = redaction.after and self.key.seal(redaction.after)
        return redaction.model_copy(update={**digests, "after": after})

    def retracted(self, session: str) -> list[Redaction]:
        """Return all redactions that were requested in a session and not undone, whether or not the work was finished.

        A process that died in the middle took its cache along, but its requests are still in force.
        """
        return list(dict.fromkeys(known.redaction for known in self.logged(session) if known.in_force))

    def logged(self, session: str) -> list[queries.Logged]:
        """Return all redactions that were ever requested in a session, each with its retraction.

        The rows are queried only after the log has changed: sessions ask before each answer.
        """
        with self._store.reading() as connection:
            version = self._store.version()  # before the rows: what is written meanwhile is found the next time
            if version != self._logged_at:
                self._logged, self._logged_at = {}, version
            if session not in self._logged:
                found = queries.logged(connection, str(chain.storable(session)))
                self._logged[session] = [self._named_key(known) for known in found]
            return list(self._logged[session])

    def entries(
        self, session: str | None = None, retraction: str | None = None, limit: int | None = None
    ) -> list[AuditRow]:
        """Return the rows of this session and retraction, oldest first; with `limit`, only that many of the latest."""
        wanted = {"session": session, "retraction": retraction}
        with self._store.reading() as connection:
            return queries.rows(connection, {k: chain.storable(v) for k, v in wanted.items() if v is not None}, limit)

    def unfinished(self) -> list[AuditRow]:
        """Return intents without an outcome, or with none but `queued`: still running, or their process died."""
        with self._store.reading() as connection:
            return queries.unfinished(connection)

    def close_unfinished(self) -> list[str]:
        """Write the outcome `interrupted` for retractions whose process has ended; return their ids."""
        with self._store.transaction() as connection:
            dead = [row for row in queries.unfinished(connection) if process.is_gone(row.pid, row.process)]
            ended = list(dict.fromkeys((row.session, row.retraction) for row in dead))
            for session, retraction in ended:
                self._append(connection, "outcome", session, retraction, {"status": "interrupted"})
        return [retraction for _, retraction in ended]

    def verify(self) -> list[Problem]:
        """Return all that is wrong with the log; an empty list if every row is as it was written and none is missing.

        Reads all rows. Raises AuditError when the file cannot be opened, or the key is not this log's.
        """
        key = self.key
        with self._store.snapshot() as connection:
            found: list[Problem] = []
            try:
                found.extend(problems(connection, key))
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                found.append(Problem(row=None, text=f"The database is damaged and cannot be read on: {error}."))
            return found

    def _named_key(self, known: queries.Logged) -> queries.Logged:
        """Name the log's key in a redaction that was written before redactions named theirs."""
        if known.redaction.key or self._key is None:
            return known
        return replace(known, redaction=known.redaction.model_copy(update={"key": self._key.id}))

    @property
    def key(self) -> Key:
        """Return the log's key. Raises AuditError when it cannot be read."""
        if self._key is None:
            self._key = key_of(read_key(beside(self.path)))
        return self._key

    def _named(
        self, targets: Sequence[Target], spans: Iterable[Spanned], redactions: Iterable[Redaction]
    ) -> dict[str, Value | None]:
        return {
            "targets": as_json(self._target(target) for target in targets),
            "spans": as_json(SpanRecord.of(span) for span in spans),
            REDACTIONS: as_json(self.seal(redactions)),
        }

    def _target(self, target: Target) -> TargetRecord:
        key, name = self.key, target_name(target)
        given = key.seal(parse_messages([target])[0].digest()) if isinstance(target, Mapping) else key.hash("id", name)
        return TargetRecord(name=name, hash=given)

    def _write(self, kind: Kind, session: str, retraction: str, **columns: Value | None) -> None:
        with self._store.transaction(durable=kind in _DURABLE) as connection:
            self._append(connection, kind, session, retraction, columns)

    def _append(
        self,
        connection: sqlite3.Connection,
        kind: Kind,
        session: str,
        retraction: str,
        columns: dict[str, Value | None],
    ) -> None:
        pid, token = process.current()
        row: dict[str, Value | None] = {
            "kind": kind,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "session": session,
            "retraction": retraction,
            "pid": pid,
            "process": token,
            **columns,
        }
        chain.append(connection, self.key, row)
