"""The files of the log tell nothing of what was erased, not even to who can guess it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv_memory import CharRange, Memory
from kv_memory.audit import AuditLog, Outcome
from kv_memory.audit.key import read_key
from kv_memory.conversation.messages import Message, parse_messages
from tests.audit.parts import MESSAGES, PIN, redaction, retract, story
from tests.tiny import tiny_engine

SECRET = "Grünwald's code is 8812-XK"
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": f"Remember {SECRET}, and the rest."},
    {
        "role": "assistant",
        "id": "a1",
        "content": "",
        "tool_calls": [{"id": "c0", "function": {"name": "open_vault", "arguments": '{"code": "8812-XK"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": SECRET},
    {"role": "user", "content": [{"type": "text", "text": f"It says {SECRET}.", "document_id": "memo"}]},
    {"role": "user", "id": "u2", "content": "Go on."},
]
TARGETS: list[Any] = ["c1", "c0", "memo", CharRange(message="u1", start=9, end=35), CONVERSATION[2]]


def on_disk(path: Path) -> bytes:
    """All files of the log but its key."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if file.suffix != ".key")


def forms(data: bytes) -> Iterator[bytes]:
    """How bytes may be written."""
    yield data
    for digest in (hashlib.sha256(data), hashlib.sha1(data), hashlib.md5(data)):
        yield digest.digest()
        yield digest.hexdigest().encode()
        yield base64.b64encode(digest.digest())
    yield base64.b64encode(data).rstrip(b"=")
    yield data.hex().encode()


def test_retractions_of_a_session_leave_no_text_and_no_plain_digest(log: AuditLog, path: Path) -> None:
    session = Memory(tiny_engine()).session("thread-1")
    session.prefill(CONVERSATION)
    for target in TARGETS:
        planned = session.retract(target, dry_run=True)
        with log.retraction(
            session="thread-1",
            targets=[target],
            redactions=planned.redactions,
            spans=planned.spans,
            by="owner",
            reason="wrong",
        ) as it:
            report = session.retract(target, reason="wrong")
            it.outcome = Outcome(report.status, report.eraser, report.tokens_erased, report.tokens_recomputed)
    digests = {message.digest().encode() for message in parse_messages(CONVERSATION)}
    digests |= {redaction.digest.encode() for report in session.reports for redaction in report.redactions}
    assert len(log.retracted("thread-1")) >= 4
    said = [SECRET, "Grünwald", "8812-XK", "open_vault", CONVERSATION[0]["content"], f"It says {SECRET}."]
    texts = {text.encode(encoding) for text in said for encoding in ("utf-8", "utf-16-le")}
    texts |= {text.encode("unicode_escape") for text in said}
    secret = {form for text in texts for form in forms(text)} | digests | {bytes.fromhex(d.decode()) for d in digests}
    ahead = on_disk(path)
    log.close()
    for data in (ahead, on_disk(path)):  # with the write-ahead file, and without
        assert b"memo" in data
        assert [form for form in secret if form in data] == []


def guesses() -> Iterator[Message]:
    for number in range(10_000):
        yield parse_messages([{**MESSAGES[1], "content": f"{number:04}"}])[0]


def test_short_secrets_cannot_be_guessed_without_the_key(log: AuditLog, path: Path) -> None:
    story(log)
    data = on_disk(path)
    public = [b"", b"text", path.name.encode(), log.entries()[0].hash.encode()]
    for message in guesses():
        digest = message.digest().encode()
        tried = [digest, hashlib.sha256(digest).hexdigest().encode()]
        tried += [hmac.new(key, digest, "sha256").hexdigest().encode() for key in public]
        tried += [hashlib.sha256(message.content.encode()).hexdigest().encode()]
        assert not any(guess in data for guess in tried)
    key_alone = AuditLog(path, reading=True)
    wanted = {redaction.digest for redaction in log.retracted("s")}
    assert [m.content for m in guesses() if key_alone.key.seal(m.digest()) in wanted] == [PIN]  # who has the key can


def test_two_logs_hash_the_same_message_differently(tmp_path: Path) -> None:
    one, other = AuditLog(tmp_path / "one.db"), AuditLog(tmp_path / "other.db")
    assert one.seal([redaction(1)]) != other.seal([redaction(1)])
    assert one.seal([redaction(1)]) == one.seal([redaction(1)])


def test_the_key_is_its_owners_alone(log: AuditLog, path: Path) -> None:
    key = path.with_name("audit.db.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(read_key(key)) == 32
    assert sorted(file.name for file in path.parent.iterdir() if "key" in file.name) == ["audit.db.key"]
    retract(log)
    assert read_key(key).hex().encode() not in on_disk(path)
    assert read_key(key) not in on_disk(path)


@pytest.mark.parametrize("name", ["text", "id", "row", "head", "log"])
def test_each_purpose_has_hashes_of_its_own(log: AuditLog, name: Any) -> None:
    hashes = {log.key.hash(purpose, "x", "y") for purpose in ("text", "id", "row", "head", "log")}
    assert len(hashes) == 5
    assert log.key.hash(name, "x", "y") != log.key.hash(name, "xy")
