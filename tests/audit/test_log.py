"""What is written when, and what is read back."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kv_memory import CharRange, Span, SpanKind
from kv_memory.audit import AuditLog, Outcome
from kv_memory.audit.records import REDACTIONS
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.redactions import cuts_for
from kv_memory.conversation.spans import Target
from tests.audit.parts import KEY, MESSAGES, PIN, found, redaction, retract


def test_a_retraction_is_an_intent_and_an_outcome(log: AuditLog) -> None:
    span = Span(id="s1", kind=SpanKind.TOOL_RESULT, start=5, end=9, tokens=4, message=1, tool_call_id="c1", name="bank")
    before = datetime.now(UTC)
    with log.retraction(
        session="s", targets=["c1"], redactions=[redaction(1)], spans=[span], by="support", reason="wrong price"
    ) as it:
        [intent] = log.entries()
        assert log.unfinished() == [intent]
        it.outcome = Outcome("approximate", "influence", tokens_erased=4, tokens_recomputed=12, fidelity=0.97)
    intent, outcome = log.entries(session="s", retraction=it.id)
    assert (intent.number, intent.kind, outcome.number, outcome.kind) == (1, "intent", 2, "outcome")
    assert (intent.by, intent.reason, intent.pid) == ("support", "wrong price", os.getpid())
    assert [target.name for target in intent.targets] == ["c1"]
    assert [(s.id, s.kind, s.tool_call_id) for s in intent.spans] == [("s1", SpanKind.TOOL_RESULT, "c1")]
    assert "bank" not in intent.model_dump_json()
    assert (outcome.status, outcome.eraser, outcome.tokens_erased, outcome.tokens_recomputed, outcome.fidelity) == (
        *("approximate", "influence", 4, 12, 0.97),
    )
    assert outcome.seconds is not None
    assert 0 < outcome.seconds < 10
    assert before <= intent.time <= outcome.time <= datetime.now(UTC) + timedelta(seconds=1)
    assert intent.time.utcoffset() == timedelta(0)
    assert log.unfinished() == []
    assert log.verify() == []


def test_work_that_fails_is_named_by_its_class_alone(log: AuditLog) -> None:
    with (
        pytest.raises(ValueError, match=PIN),
        log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]) as it,
    ):
        raise ValueError(f"cannot erase {PIN}")
    outcome = log.entries(retraction=it.id)[-1]
    assert (outcome.status, outcome.error) == ("failed", "ValueError")
    assert log.retracted("s") == list(log.seal([redaction(1)]))  # it is still to be left out


def test_a_queued_retraction_is_unfinished_until_it_was_applied(log: AuditLog) -> None:
    with log.retraction(session="s", targets=["c1"], redactions=[redaction(1)]) as it:
        it.outcome = Outcome("queued")
    assert [row.retraction for row in log.unfinished()] == [it.id]
    log.outcome("s", it.id, Outcome("exact", "recompute", seconds=0.1))
    assert log.unfinished() == []


def test_targets_of_every_sort(log: AuditLog) -> None:
    targets: list[Target] = [
        "c1",
        CharRange(message="u1", start=2, end=4),
        MESSAGES[1],
        {"role": "tool", "content": PIN},
    ]
    log.refusal(session="s", targets=targets, by="tool", reason="no", error="RefusedError")
    [row] = log.entries()
    assert (row.kind, row.status, row.error, row.by) == ("refusal", "refused", "RefusedError", "tool")
    names = [target.name for target in row.targets]
    assert names == ["c1", "characters 2 to 4 of u1", "c1", "this tool message"]
    assert row.targets[2].hash == row.targets[3].hash == log.seal([redaction(1)])[0].digest


def test_what_is_written_has_all_of_a_redaction_with_its_digest_under_the_logs_key(log: AuditLog) -> None:
    given = redaction(2, chars=((8, 10),), occurrence=1, calls=frozenset({0, 2}), after="x")
    (written,) = log.seal([given])
    assert (written.digest, written.after) == (log.key.seal(given.digest), log.key.seal("x"))
    assert written.model_copy(update={"digest": given.digest, "after": "x", "key": ""}) == given
    assert log.seal([written]) == (written,)


def test_a_log_of_an_earlier_version_is_read(log: AuditLog) -> None:
    """Redactions named their digest "seal" and not its key."""
    (now,) = log.seal([redaction(1)])
    old = now.model_dump(mode="json", include={"role", "message_id", "tool_call_id", "occurrence", "chars", "calls"})
    log._write("intent", "s", "r1", **{REDACTIONS: json.dumps([{**old, "seal": now.digest}])})
    assert log.retracted("s") == [now]


def test_a_new_process_gets_back_what_was_retracted(path: Path) -> None:
    part = redaction(2, chars=((8, 10),), occurrence=1, calls=frozenset({0, 2}))
    first = AuditLog(path)
    with first.retraction(session="s", targets=["c1"], redactions=[redaction(1), part]) as it:
        it.outcome = Outcome("exact")
    retract(first, 0, session="another")
    first.close()
    log = AuditLog(path)
    assert found(log, "s", MESSAGES) == list(log.seal([redaction(1), part]))
    assert found(log, "s", MESSAGES[:2]) == list(log.seal([redaction(1)]))
    assert found(log, "s", [{**MESSAGES[1], "content": "4712"}]) == []
    assert log.retracted("never heard of") == []
    identified = Originals(log.key).identify(parse_messages(MESSAGES))
    assert cuts_for(identified, log.retracted("another"))[0].chars == ((0, 15),)


def test_what_was_undone_is_not_given_back_unless_it_was_named_twice(log: AuditLog) -> None:
    first, second = retract(log, 1), retract(log, 2)
    twice = retract(log, 2)
    assert len(log.retracted("s")) == 2
    log.undone("s", first, by="owner", reason="it was right")
    log.undone("s", second)
    log.undone("another session", twice)
    assert log.retracted("s") == list(log.seal([redaction(2)]))
    log.undone("s", twice)
    assert log.retracted("s") == []


def test_more_may_turn_out_to_be_retracted_and_a_part_of_it_taken_back(log: AuditLog) -> None:
    with log.retraction(session="s", targets=["c1"], redactions=[redaction(1)], by="owner") as it:
        log.also("s", it.id, [redaction(2), redaction(0)], by="policy", reason="depends on it")
        assert [row.kind for row in log.unfinished()] == ["intent", "intent"]
    assert log.unfinished() == []
    log.undone("s", it.id, redactions=[])
    log.undone("s", it.id, redactions=[redaction(2)], reason="said again without it")
    assert log.retracted("s") == list(log.seal([redaction(1), redaction(0)]))
    log.undone("s", it.id)
    assert log.retracted("s") == []
    assert [row.kind for row in log.entries()] == ["intent", "intent", "outcome", "undone", "undone"]
    log.also("s", it.id, [redaction(0)])
    assert log.retracted("s") == list(log.seal([redaction(0)]))
    assert log.verify() == []


def test_edits_pass_on_to_a_fork_still_sealed(log: AuditLog) -> None:
    retract(log)
    undone = redaction(0)
    name = log.inherited("s/fork", [*log.retracted("s"), redaction(2)], [undone], origin="s", by="owner")
    assert log.retracted("s/fork") == list(log.seal([redaction(1), redaction(2)]))
    assert [known.redaction for known in log.logged("s/fork") if not known.in_force] == list(log.seal([undone]))
    assert [row.kind for row in log.entries("s/fork", name)] == ["intent", "outcome", "undone"]
    assert log.unfinished() == []
    assert log.verify() == []


def test_entries_are_the_latest_in_order(log: AuditLog) -> None:
    ids = [retract(log, session=session) for session in ("a", "b", "a")]
    assert [row.number for row in log.entries(limit=3)] == [4, 5, 6]
    assert [row.retraction for row in log.entries("a")] == [ids[0], ids[0], ids[2], ids[2]]
    assert [row.kind for row in log.entries("a", ids[2], limit=1)] == ["outcome"]
    assert log.entries("b", ids[0]) == []


def test_any_text_and_number_survives(log: AuditLog) -> None:
    odd = "a\x00b\n'; DROP TABLE rows; -- \ud83d é \U0001f600"
    with log.retraction(session=odd, targets=[odd], redactions=[redaction(1)], by=odd, reason=odd) as it:
        it.outcome = Outcome("exact", seconds=-0.0, fidelity=float("nan"))
    intent, outcome = log.entries(session=odd)
    assert intent.reason == intent.session == odd.replace("\ud83d", "\\ud83d")
    assert (outcome.seconds, outcome.fidelity) == (0.0, None)
    assert len(log.retracted(odd)) == 1
    assert log.verify() == []


def test_the_key_may_be_kept_elsewhere(path: Path) -> None:
    log = AuditLog(path, key=KEY)
    retract(log)
    assert not list(path.parent.glob("*.key"))
    assert AuditLog(path, key=KEY).verify() == []


def test_it_is_quick(log: AuditLog, measured: Callable[[str], None]) -> None:
    times = []
    for _ in range(100):
        started = time.perf_counter()
        retract(log)
        times.append((time.perf_counter() - started) * 1e3)
    typical, slow = statistics.median(times), sorted(times)[95]
    measured(f"audit: intent and outcome {typical:.1f} ms typically, {slow:.1f} ms at the 95th percentile")
    assert typical < 50


def test_the_columns_are_those_that_the_first_logs_have(path: Path) -> None:
    """A log of an earlier version stays readable: hashes cover the names of the columns."""
    AuditLog(path)
    columns = [row[1] for row in sqlite3.connect(path).execute("PRAGMA table_info(rows)")]
    assert columns[9] == "edits"
    assert len(columns) == 20
