"""What later turns owe to a span, what an answer rests on, and what would be without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kv_memory import CharRange, Memory, Policy, Session
from kv_memory.conversation.ledger import Selection
from kv_memory.errors import PolicyError, TargetError, UnknownTargetError
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.dependence import log_probabilities, turns_after
from tests.test_session import CONVERSATION, SECRET
from tests.tiny import memory_of, tiny_engine

ENGINE = tiny_engine()
TALK: list[dict[str, Any]] = [
    *CONVERSATION,
    {"role": "assistant", "id": "a1", "content": "the code is 4711"},
    {"role": "user", "id": "u3", "content": "Thanks."},
    {"role": "assistant", "id": "a2", "content": "Gladly.", "tool_calls": [{"id": "c2", "function": {"name": "g"}}]},
    {"role": "tool", "tool_call_id": "c2", "content": "ok"},
]


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    session = Memory(ENGINE, heal="never").new_session(request.node.name)
    session.prefill(TALK)
    return session


def test_a_misspelt_cascade_is_refused_and_nothing_is_erased(session: Session) -> None:
    with pytest.raises(PolicyError, match="no cascade 'retact'; give one of report, retract, regenerate"):
        session.retract("c1", cascade="retact")  # type: ignore[arg-type]
    assert not session.reports


def log_probability(messages: list[dict[str, Any]], answer: str) -> float:
    """Return the log-probability of an answer's tokens, computed independently."""
    scored = Memory(ENGINE).session("fresh").score(messages, answer)
    ids = ENGINE.tokenizer.encode(answer, special=False)[0]
    return float(sum(row[i] for row, i in zip(scored, ids, strict=False)))


def cut(messages: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [m | {"content": ""} if i == number else m for i, m in enumerate(messages)]


def test_what_was_written_later_is_scored_with_and_without(session: Session) -> None:
    report = session.retract("c1", eraser="recompute", cascade="report")
    found = {item.span_id: item for item in report.dependences}
    answer = next(item for item in report.dependences if item.message_id == "a1")
    before, after = log_probability(TALK[:5], SECRET), log_probability(cut(TALK[:5], 3), SECRET)
    assert answer.before * answer.tokens == pytest.approx(before, abs=1e-3)
    assert answer.after * answer.tokens == pytest.approx(after, abs=1e-3)
    kinds = [(item.kind, item.message_id) for item in found.values()]
    assert sorted(kinds) == [("assistant", "a1"), ("assistant", "a2"), ("tool_call", "a2")]
    assert [item.drop for item in report.dependences] == sorted((i.drop for i in found.values()), reverse=True)


def test_scoring_changes_nothing(session: Session) -> None:
    other = Memory(ENGINE, heal="never").session("other")
    other.prefill(TALK)
    session.retract("c1", eraser="drop", cascade="report")
    other.retract("c1", eraser="drop")
    a, b = session.branches.latest, other.branches.latest
    assert a is not None
    assert b is not None
    assert torch.equal(ENGINE.score(a.seq, [5]), ENGINE.score(b.seq, [5]))
    assert session.prefill(TALK).prefilled == 0


def test_what_depended_is_retracted_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)  # all that came later
    report = session.retract("c1", eraser="recompute", cascade="retract")
    assert {span.message_id for span in report.spans} >= {"a1", "a2"}
    left = report.tombstones(TALK)
    assert (left[3]["content"], left[5]["content"], left[7]["content"]) == ("", "", "")
    assert left[7]["tool_calls"] == []
    assert session.prefill(left).prefilled == 0
    session.undo(report)
    assert session.prefill(TALK).left_out == 0


def test_the_cost_of_scoring_is_in_the_report(session: Session) -> None:
    report = session.retract("c1", eraser="drop", cascade="report")
    assert 0 < report.seconds_scoring < report.seconds
    assert session.retract("u1", eraser="drop").seconds_scoring == 0


def test_a_cascade_takes_nothing_that_the_policy_may_not_retract(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)
    policy = Policy.of({"authority": {"policy": ["tool_call"]}})
    memory = Memory(ENGINE, policy=policy, audit=tmp_path / "audit.sqlite", heal="never")
    read = memory.session("s")
    read.prefill(TALK)
    report = read.retract("c1", by="tool", eraser="drop", cascade="retract")
    assert {span.kind for span in report.spans} == {"tool_result", "tool_call"}
    assert memory.audit is not None
    assert [(r.kind, r.by) for r in memory.audit.entries()][1:3] == [("refusal", "tool"), ("refusal", "tool")]


def test_nothing_depends_where_nothing_came_after(session: Session) -> None:
    assert session.retract("c2", eraser="recompute", cascade="report").dependences == ()


def test_turns_that_depended_are_written_anew(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)
    report = session.retract("c1", eraser="recompute", cascade="regenerate")
    anew = session.regenerate(report, TALK, max_tokens=4, temperature=1.0, seed=3)
    assert [m.get("id") for m in anew] == [m.get("id") for m in TALK[:8]]  # ends where a call was made
    assert anew[3]["content"] == ""
    expected = Memory(ENGINE).session("x").chat(anew[:5], max_tokens=4, temperature=1.0, seed=3)
    assert anew[5]["content"] == expected.message["content"]


def test_without_is_a_fork(session: Session) -> None:
    with session.without("c1", eraser="recompute") as other:
        scores = other.score(TALK[:5], SECRET)
        name = other.id
    fresh = Memory(ENGINE).session("y").score(cut(TALK[:5], 3), SECRET)
    torch.testing.assert_close(scores, fresh, atol=2e-4, rtol=0)
    assert memory_of(session).get(name) is None
    assert session.prefill(TALK).left_out == 0
    with pytest.raises(UnknownTargetError):
        session.without("nothing")
    assert len(memory_of(session).sessions()) == 1


def test_an_answer_is_attributed_to_what_it_rests_on(session: Session) -> None:
    found = {item.span.id: item.drop for item in session.attribute("a1", eraser="recompute")}
    before = log_probability(TALK[:5], SECRET)
    assert set(found) == {span.id for span in session.spans()[:6] if span.tokens and span.kind != "tool_call"}
    result = next(span.id for span in session.spans() if span.kind == "tool_result")
    assert found[result] == pytest.approx(before - log_probability(cut(TALK[:5], 3), SECRET), abs=1e-3)
    only = session.attribute("a1", "c1", eraser="drop")
    assert [item.span.id for item in only] == [result]
    assert session.prefill(TALK).prefilled == 0


def test_a_call_is_attributed_to_what_it_rests_on(session: Session) -> None:
    call = next(span for span in session.spans() if span.kind == "tool_call" and span.message_id == "a2")
    found = {item.span.id: item.drop for item in session.attribute(call.id, eraser="recompute")}
    branch = session.branches.latest
    assert branch is not None
    (turn,) = (t for t in turns_after(branch, 0) if t.span_id == call.id)
    (before,) = log_probabilities(branch, [turn])
    with session.without("c1", eraser="recompute") as other:
        left = other.branches.latest
        assert left is not None
        (after,) = log_probabilities(left, [replace(turn, entry=left.ledger.entries[turn_number(branch, turn)])])
    result = next(span.id for span in session.spans() if span.tool_call_id == "c1" and span.kind == "tool_result")
    assert found[result] == pytest.approx(before - after, abs=1e-3)


def turn_number(branch: Branch, turn: Selection) -> int:
    return branch.ledger.entries.index(turn.entry)


def test_a_turn_that_only_calls_a_tool_is_an_answer(session: Session) -> None:
    asked = next(span for span in session.spans() if span.kind == "assistant")
    assert [item.span.kind for item in session.attribute(asked.id, "u1", eraser="drop")] == ["user"]


def test_only_an_answer_can_be_attributed(session: Session) -> None:
    with pytest.raises(TargetError, match="no answer of the assistant"):
        session.attribute("u1")
    session.retract(CharRange(message="a1", start=0, end=3), eraser="drop")
    with pytest.raises(TargetError, match="in full"):
        session.attribute("a1")
