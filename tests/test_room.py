"""The room for cells: what is freed when a conversation does not fit, and what is left when it never can."""

from __future__ import annotations

from typing import Any

import pytest

from kv_memory import ContextLengthError, Memory, RetractionStatus
from tests.tiny import tiny_engine

H: list[dict[str, Any]] = [
    {"role": "user", "id": "u", "content": "q"},
    {"role": "tool", "tool_call_id": "c1", "content": "SECRET42"},
    {"role": "user", "content": "z"},
]
LONG = [{"role": "user", "id": "long", "content": "a long question " * 8}]


def test_the_same_question_fits_again() -> None:
    engine = tiny_engine()
    size = Memory(engine).count_tokens(LONG, answer=False)
    memory = Memory(engine, cache_tokens=size + 60, heal="never")
    session = memory.session("s")
    first = session.chat(LONG, max_tokens=8).text
    assert session.chat(LONG, max_tokens=8).text == first
    assert len(list(session.branches)) == 1


def test_what_can_never_fit_evicts_nobody() -> None:
    memory = Memory(tiny_engine(), cache_tokens=150, heal="never")
    memory.session("a").prefill(H)
    with pytest.raises(ContextLengthError, match="at most 150"):
        memory.session("b").prefill([{"role": "user", "content": "x" * 400}])
    assert memory.session("a").spans()
    assert all(branch.resident for branch in memory.session("a").branches)


def test_a_conversation_that_is_being_answered_is_not_evicted() -> None:
    engine, other = tiny_engine(), [{"role": "user", "content": "x" * 130}]
    size = Memory(engine).count_tokens(other, answer=False)
    memory = Memory(engine, cache_tokens=size + 20, heal="never")
    stream = memory.session("a").stream(H, max_tokens=20, temperature=1.0, seed=1)
    items = iter(stream)
    next(items)
    with pytest.raises(ContextLengthError, match=f"at most {size + 20}"):
        memory.session("b").prefill(other)
    assert stream.finish().finish_reason == "length"
    memory.session("b").prefill(other)
    assert not any(branch.resident for branch in memory.session("a").branches)


def test_a_fork_that_does_not_fit_leaves_its_id_free() -> None:
    memory = Memory(tiny_engine(), cache_tokens=150, heal="never")
    session = memory.session("a")
    session.prefill([{"role": "user", "content": "x" * 100}])
    with pytest.raises(ContextLengthError):
        session.fork("copy")
    assert memory.sessions() == ["a"]


def test_gaps_are_closed_before_a_context_is_full() -> None:
    engine = tiny_engine(max_positions=300)
    session = Memory(engine, heal="never").session("s")
    talk = [{"role": "user", "id": "x", "content": "x" * 200}, {"role": "user", "content": "and?"}]
    session.prefill(talk)
    session.retract("x", eraser="drop")
    more = [*talk, {"role": "user", "content": "y" * 100}]
    assert session.prefill(more).prefilled > 100


def test_a_full_memory_heals() -> None:
    engine = tiny_engine()
    memory = Memory(engine, cache_tokens=Memory(engine).count_tokens(H, answer=False) + 10)
    session = memory.session("s")
    session.prefill(H)
    report = session.retract("u", eraser="drop")
    assert memory.healer.wait(20)
    assert session.report(report.id).status is RetractionStatus.EXACT
    memory.healer.stop()
