"""Undoing an erasure by its kept rows: bit-identical cells, a ledger that agrees, and no wrong row ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kv_memory import CharRange, Memory, Session
from kv_memory.testing.reference import flat
from tests.lora import steering_engine
from tests.test_session import CONVERSATION, SECRET, in_step

ENGINE = steering_engine()
MORE = [*CONVERSATION, {"role": "assistant", "content": "So."}, {"role": "user", "content": "Really?"}]


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    session = Memory(ENGINE, heal="never").new_session(request.node.name)
    session.prefill(CONVERSATION)
    return session


def state(session: Session) -> tuple[list[Any], Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    branch = session.branches.latest
    assert branch is not None
    cells = ENGINE.read_cells(branch.seq, ENGINE.positions(branch.seq))
    return [cells.positions, cells.token_ids, session.spans(), branch.ledger.steered], cells.keys, cells.values


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return (
        one[0] == other[0] and torch.equal(flat(one[1]), flat(other[1])) and torch.equal(flat(one[2]), flat(other[2]))
    )


@pytest.mark.parametrize("eraser", ["drop", "steer"])
@pytest.mark.parametrize("target", ["c1", "u1", CharRange(message="c1", start=4, end=9), "s0"])
def test_the_cells_are_as_they_were(session: Session, eraser: str, target: Any) -> None:
    before = state(session)
    report = session.retract(target, eraser=eraser, keep_undo=True)
    assert not same(state(session), before)
    assert session.undo(report) == "restored"
    assert same(state(session), before)
    assert in_step(session)
    assert session.prefill(CONVERSATION).prefilled == 0


@pytest.mark.parametrize("eraser", ["drop", "steer"])
def test_what_came_later_stays_and_counts_as_approximate(session: Session, eraser: str) -> None:
    report = session.retract("c1", eraser=eraser, keep_undo=True)
    session.prefill(MORE)
    assert session.undo(report) == "restored"
    branch = session.branches.latest
    assert branch is not None
    assert branch.ledger.approximate_from == branch.ledger.entries[len(CONVERSATION)].start
    assert in_step(session)
    session.heal()
    assert session.prefill(MORE).left_out == 0
    fresh = ENGINE.create()
    ENGINE.prefill(fresh, ENGINE.tokens(branch.seq))
    torch.testing.assert_close(ENGINE.score(branch.seq, [5]), ENGINE.score(fresh, [5]), atol=2e-5, rtol=0)


def test_undone_in_any_order(session: Session) -> None:
    before = state(session)
    first = session.retract("u1", eraser="drop", keep_undo=True)
    second = session.retract("c1", eraser="steer", keep_undo=True)
    assert session.undo(first) == "restored"
    assert session.undo(second) == "restored"
    assert same(state(session), before)


@pytest.mark.parametrize("then", ["shift", "heal", "same message", "expired", "evicted"])
def test_rows_that_no_longer_fit_are_not_used(session: Session, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = session.retract(CharRange(message="c1", start=4, end=9), eraser="drop", keep_undo=True)
    match then:
        case "shift":
            session.retract("u1", eraser="shift")
        case "heal":
            session.heal()
        case "same message":
            session.retract("c1", eraser="drop")
        case "expired":
            monkeypatch.setattr("kv_memory.sessions.kept_rows.SECONDS", -1)
        case "evicted":
            session.evict()
    assert session.undo(report) == "pending_reread"
    usage = session.prefill(CONVERSATION)
    assert (usage.prefilled > 0) == (then != "same message")  # the retraction of the whole message is still in force
    assert in_step(session)


def test_nothing_is_kept_unless_asked_for(session: Session) -> None:
    report = session.retract("c1", eraser="drop")
    assert session.undo(report) == "pending_reread"


def test_an_eraser_that_changes_other_cells_is_undone_by_reading_again(session: Session) -> None:
    report = session.retract("c1", eraser="influence", keep_undo=True)
    assert session.undo(report) == "pending_reread"


def test_rows_that_are_kept_put_healing_off() -> None:
    memory = Memory(ENGINE, heal="idle")
    session = memory.session("s")
    session.prefill(CONVERSATION)
    report = session.retract("c1", eraser="drop", keep_undo=True)
    assert memory.healer.wait(10)
    assert session.report(report.id).status == "approximate"
    assert session.undo(report) == "restored"


def test_rows_are_gone_after_their_time_and_healing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.kept_rows.SECONDS", 0.3)
    healed = threading.Event()
    memory = Memory(ENGINE, heal="idle", on_heal=lambda _: healed.set())
    session = memory.session("s")
    session.prefill(CONVERSATION)
    report = session.retract("c1", eraser="drop", keep_undo=True)
    assert report.status == "approximate"
    assert session.state.kept.of(report.id)
    assert healed.wait(20)  # nobody has called anything
    assert session.state.kept.of(report.id) == []
    assert session.report(report.id).status == "exact"


def test_rows_are_gone_with_the_session(session: Session) -> None:
    report = session.retract("c1", eraser="drop", keep_undo=True)
    session._memory.delete_session(session.id)
    assert session.state.kept.of(report.id) == []


def test_an_answer_under_way_does_not_cost_the_rows(session: Session) -> None:
    report = session.retract("c1", eraser="drop", keep_undo=True)
    stream = session.stream([*CONVERSATION], max_tokens=4, temperature=1.0, seed=1)
    next(iter(stream))
    assert session.state.kept.holds(session.branches.latest)  # type: ignore[arg-type]
    stream.finish()
    assert session.state.kept.of(report.id)


def test_undone_twice_there_is_nothing_to_undo(session: Session) -> None:
    report = session.retract("c1", eraser="drop", keep_undo=True)
    assert session.undo(session.retract("u1", dry_run=True)) == "noop"
    assert session.undo(report) == "restored"
    assert session.undo(report) == "noop"
    assert session.prefill(CONVERSATION).prefilled == 0


def test_the_audit_log_says_what_was_done(tmp_path: Path) -> None:
    memory = Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never")
    session = memory.session("s")
    session.prefill(CONVERSATION)
    for keep in (True, False):
        session.undo(session.retract("c1", eraser="drop", keep_undo=keep))
        session.prefill(CONVERSATION)
    assert memory.audit is not None
    said = [row.status for row in memory.audit.entries() if row.kind == "undone"]
    assert said == ["restored", "pending_reread"]


def test_what_another_retraction_named_too_stays_retracted(session: Session) -> None:
    report = session.retract("c1", eraser="drop", keep_undo=True)
    session.retract("c1", eraser="drop")
    session.undo(report)
    assert session.prefill(CONVERSATION).left_out > 0
    assert in_step(session)


@pytest.mark.parametrize("evicted", [False, True])
def test_what_was_undone_is_retracted_again_before_it_is_prefilled(session: Session, evicted: bool) -> None:
    if evicted:
        session.evict()
    session.undo(session.retract("c1"))
    again = session.retract("c1")
    assert [redaction.role for redaction in again.redactions] == ["tool"]  # the call of that id is not meant
    assert (again.status, again.tokens_erased) == ("exact", 0)
    assert session.prefill(CONVERSATION).left_out == len(SECRET)
    assert session.undo(again) == "pending_reread"
    assert session.prefill(CONVERSATION).left_out == 0


def test_the_text_that_an_id_had_last_is_retracted_again_after_an_undo(session: Session) -> None:
    later = [*CONVERSATION[1:3], {**CONVERSATION[3], "content": "the code is 1234"}]  # read in a branch of its own
    session.prefill(later)
    session.undo(session.retract("c1", messages=later))
    session.retract("c1")
    assert session.prefill(later).left_out == len("the code is 1234")
    assert session.prefill(CONVERSATION).left_out == len(SECRET)


def test_what_was_undone_goes_before_what_an_older_conversation_has_twice_under_the_id(session: Session) -> None:
    twice = [{"role": "user", "id": "c1", "content": text} for text in ("One.", "Two.")]
    session.prefill(twice)
    session.prefill(CONVERSATION)
    session.undo(session.retract("c1"))
    assert [redaction.role for redaction in session.retract("c1").redactions] == ["tool"]


def test_undone_again_and_again_the_messages_are_remembered_once(session: Session) -> None:
    for _ in range(4):
        session.undo(session.retract("c1"))
    assert len(list(session.branches)) == 2


def test_later_messages_are_still_named_by_their_ids_after_an_undo(session: Session) -> None:
    session.undo(session.retract("c1"))
    report = session.retract("u2", "s3")
    assert [(span.id, span.status) for span in report.spans] == [("s4", "exact"), ("s3", "exact")]
    assert session.prefill(CONVERSATION).left_out > len(SECRET)


@pytest.mark.parametrize("eraser", [None, "drop"])
def test_the_report_of_what_was_undone_and_prefilled_names_the_eraser_of_the_cells_alone(
    session: Session, eraser: str | None
) -> None:
    first = session.retract("c1", eraser=eraser)
    session.undo(first)
    session.prefill(CONVERSATION)
    second = session.retract("c1", eraser=eraser)
    assert (second.eraser, second.status, second.tokens_erased) == (first.eraser, first.status, first.tokens_erased)


def test_what_is_named_after_an_undo_is_exact_where_no_cell_is_approximate(session: Session) -> None:
    session.undo(session.retract("u1", eraser="drop"))
    assert session.retract("u1").status == "exact"


def test_an_undo_and_a_retraction_that_wait_for_one_answer_are_both_made(session: Session) -> None:
    undone = session.retract("c1")
    stream = session.stream(CONVERSATION, max_tokens=8, temperature=1.0, seed=1)
    next(iter(stream))
    session.undo(undone)
    waiting = session.retract("u1")
    assert waiting.status == "queued"
    stream.close()
    session.prefill(CONVERSATION)
    assert session.report(waiting.id).status == "exact"
    assert not any("What is" in entry.message.content for b in session.branches for entry in b.ledger.entries)
