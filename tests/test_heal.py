"""Healing: approximate cells become exact beside the conversation, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kv_memory import Memory, RetractionReport, Session
from kv_memory.engines.base import STEERED
from kv_memory.sessions.heal import Healing
from tests.lora import steering_engine
from tests.test_session import CONVERSATION
from tests.tiny import lent_memory, tiny_engine

LATER = [{"role": "user", "content": "And then? " + "More of it. " * 20}, {"role": "assistant", "content": "So."}]
LONG = [*CONVERSATION, *LATER]
ENGINE = tiny_engine()


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield from lent_memory(ENGINE)


def read(memory: Memory, name: str = "s", conversation: list[dict[str, Any]] = LONG) -> Session:
    session = memory.session(name)
    session.prefill(conversation)
    return session


def never_saw(session: Session) -> None:
    """The cells are those of a conversation that never had what is gone."""
    branch = session.branches.latest
    assert branch is not None
    assert branch.ledger.positions() == ENGINE.positions(branch.seq) == list(range(len(ENGINE.positions(branch.seq))))
    assert branch.ledger.token_ids() == ENGINE.tokens(branch.seq)
    fresh = ENGINE.create()
    ENGINE.prefill(fresh, ENGINE.tokens(branch.seq))
    torch.testing.assert_close(ENGINE.score(branch.seq, [5]), ENGINE.score(fresh, [5]), atol=2e-5, rtol=0)
    ENGINE.free(fresh)


def test_healed_in_idle_time_the_report_says_exact() -> None:
    heard: list[RetractionReport] = []
    memory = Memory(ENGINE, heal="idle", on_heal=heard.append)
    session = read(memory)
    report = session.retract("c1", eraser="drop", reason="wrong")
    assert memory.healer.wait(20)
    never_saw(session)
    now = session.report(report.id)
    assert (now.status, now.healed, [r.id for r in heard]) == ("exact", True, [report.id])
    assert {span.status for span in now.spans} == {"exact"}
    assert session.prefill(LONG).prefilled == 0


def test_healed_now_before_the_call_returns(memory: Memory) -> None:
    memory.heal = "now"
    session = read(memory)
    report = session.retract("c1", eraser="drop")
    assert (report.status, report.healed) == ("exact", True)
    never_saw(session)


def test_healed_when_asked_for(memory: Memory) -> None:
    session = read(memory)
    report = session.retract("c1", eraser="influence")
    assert report.status == "approximate"
    session.heal()
    assert session.report(report.id).status == "exact"
    never_saw(session)


@pytest.mark.parametrize("tokens", [1, 7, 10_000])
def test_nothing_changes_before_the_last_chunk(memory: Memory, tokens: int) -> None:
    session = read(memory)
    session.retract("c1", eraser="drop")
    branch = session.branches.latest
    assert branch is not None
    seq, healing = branch.seq, Healing(branch)
    while not healing.step(tokens):
        assert branch.seq == seq
    assert branch.seq != seq
    never_saw(session)


def test_what_comes_while_it_heals_is_healed_too(memory: Memory) -> None:
    session = read(memory)
    session.retract("c1", eraser="drop")
    branch = session.branches.latest
    assert branch is not None
    healing = Healing(branch)
    healing.step(20)
    session.prefill([*LONG, {"role": "user", "content": "One more."}])
    healing.step(20)
    session.retract("m0" if LONG[0].get("id") == "m0" else session.spans()[0].id, eraser="drop")
    healing.step(20)
    session.prefill([*LONG[:-1], {"role": "user", "content": "Another end."}])
    latest = session.branches.latest
    assert latest is not None
    for each in {id(b): b for b in (branch, latest)}.values():
        other = healing if each is branch else Healing(each)
        while not other.step(15):
            pass
    assert all(b.ledger.approximate_from is None for b in session.branches)
    never_saw(session)


def test_what_was_computed_of_a_message_that_was_replaced_is_computed_again(memory: Memory) -> None:
    """The new message has as many tokens as the old one had."""
    session = read(memory)
    session.retract("c1", eraser="drop")
    branch = session.branches.latest
    assert branch is not None
    healing = Healing(branch)
    assert branch.ledger.approximate_from is not None
    assert not healing.step(branch.ledger.cells_from(branch.ledger.approximate_from) - 3)  # up to "So", without "."
    session.prefill(LONG[:-1])
    session.prefill([*LONG[:-1], {"role": "assistant", "content": "No!"}])
    assert session.branches.latest is branch
    while not healing.step(15):
        pass
    never_saw(session)


def test_steering_states_are_not_run_again() -> None:
    engine = steering_engine()
    session = Memory(engine, heal="never").session("s")
    session.prefill(LONG)
    session.retract("c1", eraser="steer")
    branch = session.branches.latest
    assert branch is not None
    assert STEERED in engine.tokens(branch.seq)
    healing = Healing(branch)
    while not healing.step(15):
        pass
    fresh = Memory(engine, heal="never").session("fresh")
    fresh.prefill(LONG, without=["c1"])
    torch.testing.assert_close(session.score(LONG, "yes"), fresh.score(LONG, "yes"), atol=2e-5, rtol=0)


def test_it_stands_back_while_an_answer_is_written() -> None:
    memory = Memory(ENGINE, heal="idle")
    session = read(memory)
    stream = session.stream([*LONG, {"role": "user", "content": "Well?"}], max_tokens=8, temperature=1.0, seed=1)
    words = iter(stream)
    next(words)
    other = read(memory, "other")
    report = other.retract("c1", eraser="drop")
    time.sleep(0.1)
    assert other.report(report.id).status == "approximate"
    stream.finish()
    assert memory.healer.wait(20)
    assert other.report(report.id).status == "exact"


def test_a_call_waits_for_no_more_than_a_chunk(measured: Any) -> None:
    memory = Memory(ENGINE, heal="idle")
    session = read(memory)
    chunks: list[float] = []
    step, waited = Healing.step, []

    def slow(self: Healing, tokens: int) -> bool:
        started = time.perf_counter()
        time.sleep(0.03)
        done = step(self, min(tokens, 4))
        chunks.append(time.perf_counter() - started)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Healing, "step", slow)
        session.retract("c1", eraser="drop")
        for _ in range(10):
            started = time.perf_counter()
            with memory.engine.lock:
                waited.append(time.perf_counter() - started)
            time.sleep(0.01)
        assert memory.healer.wait(30)
    assert len(chunks) > 3
    assert max(waited) <= max(chunks) + 0.05
    measured(f"healing: a call waited at most {max(waited):.3f} s, a chunk took at most {max(chunks):.3f} s")


def test_without_room_for_a_copy_it_is_healed_in_place() -> None:
    memory = Memory(ENGINE, heal="idle")
    session = read(memory)
    memory.cache_tokens = session.branches.latest.cells + 10  # type: ignore[union-attr]
    report = session.retract("c1", eraser="drop")
    assert memory.healer.wait(20)
    assert session.report(report.id).status == "exact"


def test_what_fails_while_healing_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(ENGINE, heal="idle")
    session = read(memory)

    def fail(self: Healing, tokens: int) -> bool:
        raise RuntimeError("out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Healing, "step", fail)
        report = session.retract("c1", eraser="drop")
        assert memory.healer.wait(20)
    assert session.report(report.id).status == "approximate"
    assert "not healed" in caplog.text
    assert session.prefill(LONG).prefilled == 0


def test_an_event_that_fails_does_not_stop_healing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(report: RetractionReport) -> None:
        raise RuntimeError("the caller's own")

    memory = Memory(ENGINE, heal="idle", on_heal=fail)
    for name in ("one", "two"):
        session = read(memory, name)
        report = session.retract("c1", eraser="drop")
        assert memory.healer.wait(20)
        assert session.report(report.id).status == "exact"
    assert "on_heal failed" in caplog.text


def test_no_thread_is_left_when_all_is_healed() -> None:
    memory = Memory(ENGINE, heal="idle")
    read(memory).retract("c1", eraser="drop")
    assert memory.healer.wait(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "kv_memory heal"]
