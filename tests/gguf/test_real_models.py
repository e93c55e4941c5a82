"""Real small models: what examples/wrong_document.py shows is so, and erasing exactly is never having read it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory, Session
from kv_memory.testing.real_models import qwen, smollm2

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "wrong_document.py"))
SHORT = (EXAMPLE["WRONG"], "museum")
"""The documents that a test has the time to read."""


def messages_of(*names: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = EXAMPLE["conversation"]({name: EXAMPLE["DOCUMENTS"][name] for name in names})
    return messages


def said(session: Session, messages: list[dict[str, Any]]) -> str:
    return session.chat(messages, max_tokens=24).text


@pytest.fixture(scope="module")
def memory() -> Memory:
    """SmolLM2."""
    return Memory(smollm2(), context_length=1024, heal="never")


@pytest.fixture(scope="module")
def read(memory: Memory) -> Session:
    """A session that has read two documents, the wrong one first."""
    session = memory.session("documents")
    assert "Edwin Pole" in said(session, messages_of(*SHORT))
    return session


def test_recompute_answers_as_one_that_never_read_it(memory: Memory, read: Session) -> None:
    never_read = said(memory.session("never"), messages_of(*SHORT[1:]))
    with read.fork() as session:
        assert session.retract(SHORT[0], eraser="recompute").status == "exact"
        assert said(session, messages_of(*SHORT)) == never_read


def test_the_default_eraser_takes_the_false_answer_away(read: Session) -> None:
    with read.fork() as session:
        report = session.retract(SHORT[0])
        after = said(session, messages_of(*SHORT))
    assert (report.eraser, report.tokens_recomputed) == ("shift+influence", 64)
    assert "Pole" not in after


def test_a_larger_model_goes_from_the_false_name_to_the_right_one() -> None:
    session = Memory(qwen(), context_length=2048, heal="never").session("documents")
    messages = messages_of(*EXAMPLE["DOCUMENTS"])
    assert said(session, messages) == "Edwin Pole"
    session.retract(EXAMPLE["WRONG"])
    assert said(session, messages) == "Clara Venn"
