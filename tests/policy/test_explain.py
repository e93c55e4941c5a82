"""Why a retraction is made as it is: said before it is made, and in its report."""

from __future__ import annotations

from typing import Any

import pytest

from kv_memory import Memory, Policy, Session
from kv_memory.errors import UnknownTargetError
from tests.policy.figures import engine, left, measured, took
from tests.test_session import CONVERSATION

LONG = [*CONVERSATION, {"role": "user", "content": "Go on. " * 60}]
KNOWN = measured(took("recompute", 100), took("influence 32", 10), left("influence 32", 0.08), took("drop", 1))


def session(**options: Any) -> Session:
    found = Memory(engine(), **{"heal": "never", **options}).session("s")
    found.prefill(LONG)
    return found


def test_the_choice_and_the_alternatives_are_named_with_their_figures() -> None:
    text = session(calibration=KNOWN, policy=Policy(residual=0.1)).explain("c1")
    first, *others = text.splitlines()
    assert first.startswith("influence 32: chosen, the fastest that meets the target")
    assert "residual influence 0.04 [95 %: 0 to 0.08]" in first
    assert any(line.startswith("drop: passed over, its residual influence was not measured") for line in others)
    assert any(line.startswith("recompute: passed over, it takes longer (exact; 100 ms") for line in others)


def test_nothing_changes_and_the_report_says_the_same() -> None:
    found = session(calibration=KNOWN, policy=Policy(residual=0.1))
    before = found.spans()
    text = found.explain("c1")
    assert found.spans() == before
    assert found.reports == []
    report = found.retract("c1")
    assert report.explanation == text
    assert (report.eraser, report.residual) == ("influence", 0.04)


def test_a_reason_is_a_reason() -> None:
    found = session(calibration=KNOWN, policy=Policy(residual=0.1))
    text = found.explain("c1", reason="security: injected")
    assert text.startswith("recompute: chosen, since this policy erases exactly for reasons of security")
    assert "influence 32: passed over, it is not exact" in text
    assert found.retract("c1", reason="security: injected").residual == 0


def test_a_named_eraser_is_said_to_be_named_with_what_it_misses() -> None:
    found = session(calibration=KNOWN, eraser="drop", policy=Policy(latency_ms=0.5))
    assert found.explain("c1").startswith("drop: chosen, since the call or the memory names it, although its 1 ms are")
    assert found.explain("c1", eraser="recompute").startswith("recompute: chosen, since the call or the memory")
    assert found.retract("c1").residual is None, "nobody has measured it"


def test_what_is_not_there_needs_no_eraser() -> None:
    found = session()
    unread = [*LONG, {"role": "user", "id": "new", "content": "One more."}]
    assert found.explain("new", messages=unread).startswith("Nothing of it is in the cache")
    with pytest.raises(UnknownTargetError):
        found.explain("nothing")
    found.retract("c1", eraser="drop")
    assert found.retract("c1", eraser="recompute").explanation.startswith("recompute: makes exact")


def test_a_dry_run_names_the_eraser() -> None:
    assert session().retract("c1", dry_run=True).eraser in ("recompute", "shift+influence")
