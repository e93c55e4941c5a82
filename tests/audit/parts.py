from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kv_memory.audit import AuditLog, Outcome
from kv_memory.audit.schema import intended
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.redactions import Redaction

KEY = hashlib.sha256(b"a key for tests").digest()
PIN = "4711"
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": "What is my PIN?"},
    {"role": "tool", "tool_call_id": "c1", "content": PIN},
    {"role": "tool", "tool_call_id": "c2", "content": "Account 99 is blocked, says Grünwald."},
]


def found(log: AuditLog, session: str, messages: list[dict[str, Any]]) -> list[Redaction]:
    """The redactions of a session that the log has for these messages."""
    known = {message.digest() for message in Originals(log.key).identify(parse_messages(messages))}
    return [redaction for redaction in log.retracted(session) if redaction.digest in known]


def redaction(index: int, **change: Any) -> Redaction:
    """Return a redaction of a whole message of the conversation."""
    message = parse_messages(MESSAGES)[index]
    whole = {
        "role": message.role,
        "message_id": message.id,
        "tool_call_id": message.tool_call_id,
        "digest": message.digest(),
        "occurrence": 0,
        "chars": ((0, len(message.content)),),
        "calls": frozenset[int](),
    }
    return Redaction.model_validate(whole | change)


def retract(log: AuditLog, index: int = 1, session: str = "s", **said: Any) -> str:
    """An exact retraction as a session writes it down; its id."""
    with log.retraction(
        session=session, targets=[MESSAGES[index]], redactions=[redaction(index)], by="owner", reason="wrong", **said
    ) as it:
        it.outcome = Outcome("exact", "recompute", tokens_erased=4, tokens_recomputed=30, fidelity=0.99)
    return it.id


def story(log: AuditLog) -> None:
    """Rows of every kind."""
    first = retract(log)
    second = retract(log, 2)
    log.refusal(session="s", targets=["c1"], by="tool", reason="spoofed", error="RefusedError")
    log.healed("s", first, tokens_recomputed=30, seconds=0.25)
    log.undone("s", second, by="user", reason="it was right after all")
    retract(log, 1, session="other session")


def tamper(path: Path, *changes: tuple[str, tuple[Any, ...]]) -> None:
    """Run statements as somebody would who knows SQLite: the triggers are gone meanwhile, and back afterwards."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    triggers = {name.split()[1]: sql for name, sql in intended().items() if name.startswith("trigger")}
    for name in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for sql, values in changes:
        connection.execute(sql, values)
    for sql in triggers.values():
        connection.execute(sql)
    connection.execute("COMMIT")
    connection.close()


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a process of its own; its pid. It exits with 0, or 1 when the work raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
