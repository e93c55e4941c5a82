"""The rules of a policy file at work in a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory, Policy, Session
from kv_memory.audit import AuditLog
from tests.tiny import tiny_engine

ENGINE = tiny_engine()
RULES = {"retract": [{"rule": "superseded"}, {"rule": "tool_error"}, {"rule": "invalidated"}]}


def call(number: int, answer: str, tool: str = "get_price", **more: Any) -> list[dict[str, Any]]:
    function = {"name": tool, "arguments": '{"item": "desk"}'}
    asked = {"role": "assistant", "content": "", "tool_calls": [{"id": f"c{number}", "function": function}]}
    return [asked, {"role": "tool", "tool_call_id": f"c{number}", "content": answer, **more}]


USER = [{"role": "user", "id": "u1", "content": "The price?"}]
TALK = [*USER, *call(1, "100"), *call(2, "110"), {"role": "user", "id": "u2", "content": "Now?"}]


def session(audit: AuditLog | None = None, **policy: Any) -> Session:
    return Memory(ENGINE, policy=Policy.of(RULES | policy), audit=audit, heal="never").session("s")


def text(found: Session) -> str:
    latest = found.branches.latest
    assert latest is not None
    return ENGINE.tokenizer.decode(ENGINE.tokens(latest.seq))


def test_what_was_read_is_retracted_and_only_once() -> None:
    found = session()
    found.prefill(TALK)
    (report,) = found.apply_policy(TALK)
    assert (report.targets, report.reason) == (("c1",), "stale: superseded by c2")
    assert "100" not in text(found)
    assert found.apply_policy(TALK) == []
    assert found.apply_policy(report.tombstones(TALK)) == []
    assert found.prefill(TALK).prefilled == 0


def test_what_was_not_read_is_never_read() -> None:
    found = session()
    assert len(found.apply_policy(TALK)) == 1
    found.prefill(TALK)
    assert "110" in text(found)
    assert "100" not in text(found)


def test_each_category_is_a_retraction_of_its_own() -> None:
    found = session()
    talk = [*USER, *call(1, "100"), *call(2, "down", "get_stock", status="error"), *call(3, "110"), TALK[-1]]
    reports = found.apply_policy(talk)
    assert [(r.reason, r.targets) for r in reports] == [
        ("stale: superseded by c3", ("c1",)),
        ("error: tool error", ("c2",)),
    ]


def test_what_two_rules_name_is_retracted_once() -> None:
    talk = [*USER, *call(1, "down", status="error"), *call(2, "110"), TALK[-1]]
    assert [r.targets for r in session().apply_policy(talk)] == [("c1",)]


def test_what_a_tool_may_not_retract_stays_with_a_warning_and_a_row(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.sqlite")
    found = session(log)
    talk = [*USER, *call(1, "100", invalidates=["u1"]), TALK[-1]]
    with pytest.warns(UserWarning, match="'tool' may not retract the user span"):
        assert found.apply_policy(talk) == []
    assert [(row.kind, row.by) for row in log.entries()] == [("refusal", "tool")]
    found.prefill(talk)
    assert "The price?" in text(found)


def test_without_rules_nothing_is_looked_at() -> None:
    assert Memory(ENGINE).session("s").apply_policy([]) == []


def test_what_the_last_process_retracted_is_left_alone(tmp_path: Path) -> None:
    assert len(session(AuditLog(tmp_path / "audit.sqlite")).apply_policy(TALK)) == 1
    assert session(AuditLog(tmp_path / "audit.sqlite")).apply_policy(TALK) == []
