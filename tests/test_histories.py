"""Whatever happened to a session, its caches hold what they should: random histories, and what they have found."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from kv_memory import CharRange, Memory, RetractionStatus, Session, SpanKind
from kv_memory.engines.transformers.forward import Forward, PassCache
from tests.histories.checks import check_cells
from tests.histories.machine import Histories
from tests.test_guarantee import ENGINE, SECRET, H, begun, visible

NUMBER = int(os.environ.get("KV_MEMORY_HISTORIES", "300"))


def test_no_history_shows_what_is_retracted_or_hides_what_is_not() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=NUMBER,
            stateful_step_count=16,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# What histories have found


@pytest.fixture
def session() -> Iterator[Session]:
    memory = Memory(ENGINE, heal="never")
    yield memory.session("s")
    memory.delete_session("s")


def test_an_answer_that_the_garbage_collector_finds_in_the_middle_of_a_call_ends_after_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    gc.disable()  # so that it is found below
    lost: list[Any] = [*begun(session)]
    lost.append(lost)
    del lost
    session.prefill([*H[:2], {"role": "user", "content": "another"}])
    over = Forward.over

    def collected(self: Forward, cache: PassCache, *given: Any, **more: Any) -> Any:
        gc.collect()
        return over(self, cache, *given, **more)

    monkeypatch.setattr(Forward, "over", collected)
    session.retract("c1", eraser="recompute")
    gc.enable()
    check_cells(session, [SECRET])
    session.chat(H, max_tokens=2)
    assert not visible(session)
    assert not any(branch.busy for branch in session.branches)


def test_a_retraction_that_waits_is_made_when_another_ends_the_answer(session: Session) -> None:
    begun_ = begun(session)
    first = session.retract("u")
    assert first.status is RetractionStatus.QUEUED
    session.retract("c1", reason="security")
    assert session.report(first.id).status is RetractionStatus.EXACT
    assert not visible(session, text="q<")
    del begun_


def test_the_text_of_a_message_with_calls_is_erased_by_its_range(session: Session) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    session.prefill([H[0], {"role": "assistant", "id": "a", "content": SECRET, "tool_calls": [call]}])
    report = session.retract(CharRange(message="a", start=0, end=len(SECRET)))
    assert report.status is not RetractionStatus.NOOP
    assert [span.kind for span in report.spans] == [SpanKind.RANGE]
    assert not visible(session)


def test_what_is_left_out_is_erased_from_other_branches_too(session: Session) -> None:
    session.prefill(H)
    session.prefill([*H[:2], {"role": "user", "content": "another"}])
    session.prefill(H[:2], without=["c1"])
    assert not visible(session)


def test_a_message_is_found_by_its_text_beside_an_empty_one_that_may_be_its_tombstone(session: Session) -> None:
    talk = [H[0], {"role": "assistant", "content": "one"}, {"role": "assistant", "id": "a", "content": ""}, H[2]]
    session.prefill(talk)
    session.retract(talk[1])
    assert [span.message for span in session.retract(talk[1], messages=talk).spans] == [1]
