"""The check before a cache is used: when it is made, on what, and how exactly it erases."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from kv_memory import Memory, Session
from kv_memory.engines.transformers import TransformersEngine
from tests.test_guarantee import ENGINE, SECRET, H, decoded, visible
from tests.tiny import tiny_engine

MORE = [*H, {"role": "user", "content": "more"}]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Session, Session]:
    """The same session in two processes, as far as one process can show it."""
    here, there = (
        Memory(ENGINE, eraser="drop", heal="never", audit=tmp_path / "audit.sqlite").session("s") for _ in range(2)
    )
    here.prefill(H)
    there.prefill(H)
    return here, there


def test_what_is_new_is_computed_after_the_text_is_gone(
    pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    there.retract("c1")
    seen: list[str] = []
    prefill = TransformersEngine.prefill

    def watched(self: TransformersEngine, seq: int, *given: Any, **more: Any) -> None:
        seen.append(self.tokenizer.decode(self.tokens(seq)))
        prefill(self, seq, *given, **more)

    monkeypatch.setattr(TransformersEngine, "prefill", watched)
    here.chat(MORE, max_tokens=1)
    assert seen
    assert not any(SECRET in text for text in seen)


def test_what_another_process_retracted_is_erased_exactly(pair: tuple[Session, Session]) -> None:
    """Its reason is not known here, so it counts as the strictest."""
    here, there = pair
    there.retract("c1")
    fresh = Memory(ENGINE, heal="never").session("fresh")
    fresh.prefill(H, without=["c1"])
    torch.testing.assert_close(here.score(H, "yes"), fresh.score(H, "yes"), atol=1e-5, rtol=0)


def test_what_is_retracted_while_it_is_being_read_is_gone_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.branch.CHUNK", 16)
    session = Memory(tiny_engine(), heal="never").session("s")
    long = [*H, {"role": "user", "content": "x" * 300}]
    began = threading.Event()

    def retract() -> None:
        began.wait()
        session.retract("c1", messages=long)

    thread = threading.Thread(target=retract)
    thread.start()

    def slow(tokens: int) -> None:
        began.set()
        threading.Event().wait(0.02)

    seen: list[str] = []
    generate = TransformersEngine.generate

    def watched(self: TransformersEngine, seq: int, *given: Any) -> Any:
        seen.append(self.tokenizer.decode(self.tokens(seq)))
        return generate(self, seq, *given)

    monkeypatch.setattr(TransformersEngine, "generate", watched)
    session.chat(long, max_tokens=1, progress=slow)
    thread.join()
    assert [SECRET in text for text in seen] == [False]
    assert not visible(session)
    (branch,) = session.branches
    assert "x" * 300 in decoded(branch)


@pytest.mark.parametrize("eraser", ["drop", "influence", "shift+influence"])
def test_security_makes_exact_what_was_erased_approximately_before(eraser: str) -> None:
    session = Memory(ENGINE, heal="never").session("s")
    session.prefill(H)
    session.retract("c1", reason="stale", eraser=eraser)
    report = session.retract("c1", reason="security: leak")
    assert (report.status, report.eraser) == ("exact", "recompute")
    fresh = Memory(ENGINE, heal="never").session("fresh")
    fresh.prefill(H, without=["c1"])
    torch.testing.assert_close(session.score(H, "yes"), fresh.score(H, "yes"), atol=1e-5, rtol=0)


def test_an_id_means_every_text_that_was_read_under_it() -> None:
    session = Memory(ENGINE, heal="never").session("s")
    session.prefill(H)
    session.prefill([H[0], {**H[1], "content": "corrected"}, H[2]])
    session.retract("c1", reason="security")
    assert session.prefill(H).left_out == len(SECRET)
    assert not visible(session)
    session.prefill([H[0], {**H[1], "content": "corrected"}, H[2]])
    assert not visible(session, text="corrected")


def test_the_ledger_has_no_copy_of_what_is_retracted() -> None:
    session = Memory(ENGINE, heal="never").session("s")
    session.prefill(H)
    session.retract("c1")
    session.evict()
    assert SECRET not in str([entry.message for branch in session.branches for entry in branch.ledger.entries])
