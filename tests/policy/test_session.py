"""A policy at work in a session: what it says of a reason is what happens, and who may not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory, Policy, Reason, Session
from kv_memory.errors import PolicyError, RefusedError
from kv_memory.policy import Category
from tests.test_session import CONVERSATION
from tests.tiny import tiny_engine

LONG = [*CONVERSATION, {"role": "user", "content": "Go on. " * 60}]


def session(**options: Any) -> Session:
    found = Memory(tiny_engine(), **{"heal": "never", **options}).session("s")
    found.prefill(LONG)
    return found


@pytest.mark.parametrize("reason", ["security", "security: injected", Reason(category=Category.SECURITY)])
def test_security_is_exact(reason: Any) -> None:
    report = session(eraser="drop").retract("c1", reason=reason)
    assert (report.status, report.eraser) == ("exact", "recompute")


def test_unless_the_policy_or_the_call_says_otherwise() -> None:
    lax = Policy.of({"categories": {"security": {"exact": False}}})
    assert session(eraser="drop", policy=lax).retract("c1", reason="security").eraser == "drop"
    assert session().retract("c1", reason="security", eraser="drop").eraser == "drop"


def test_any_other_reason_goes_by_the_memory() -> None:
    assert session(eraser="drop").retract("c1", reason="stale: a newer one came").eraser == "drop"


def test_a_policy_heals_by_category() -> None:
    policy = Policy.of({"heal": "never", "categories": {"privacy": {"heal": "now"}}})
    found = session(eraser="drop", policy=policy, heal=None)
    assert found.retract("u1").status == "approximate"
    assert found.retract("c1", reason="privacy").status == "exact"


def test_a_policy_scores_what_came_later(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('cascade = "report"\nkeep_undo = true\n')
    found = session(policy=tmp_path / "p.toml", eraser="drop")
    found.prefill([*LONG, {"role": "assistant", "content": "I see."}])
    report = found.retract("c1")
    assert len(report.dependences) == 1
    assert found.undo(report) == "restored"


@pytest.mark.parametrize("by", ["tool", "policy", "session:other", "somebody"])
def test_who_may_not_is_refused(by: str) -> None:
    found = session()
    with pytest.raises(RefusedError, match="may not retract the user span"):
        found.retract("u1", by=by)
    assert found.prefill(LONG).left_out == 0


def test_what_the_policy_allows_is_done() -> None:
    policy = Policy.of({"authority": {"tool": ["tool_result", "user"]}})
    assert session(policy=policy).retract("u1", by="tool").status in ("exact", "approximate")


def test_a_wrong_policy_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("latency = 50\n")
    with pytest.raises(PolicyError, match="latency"):
        Memory(tiny_engine(), policy=tmp_path / "p.toml")
