"""A memory over a GGUF file: sessions, retractions and healing, and errors in the middle of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kv_memory import Memory, Session
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.parts import Scoring, require
from kv_memory.erasers import ERASERS
from kv_memory.erasers.steering import steering_of
from kv_memory.errors import KVMemoryError
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model
from kv_memory.trained.export import export_adapter
from tests.test_session import CONVERSATION


@pytest.fixture(scope="module")
def eraser(converted: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_lora(tiny_model(), tmp_path_factory.mktemp("eraser"))
    export_adapter(folder, converted("tiny"), folder / "eraser.gguf")
    return folder


@pytest.fixture
def memory(converted: Callable[[str], Path], eraser: Path) -> Iterator[Memory]:
    memory = Memory(converted("tiny"), eraser=eraser / "eraser.gguf", dtype="float32", heal="never")
    yield memory
    for name in memory.sessions():
        memory.delete_session(name)


def read(memory: Memory, name: str = "s") -> Session:
    session = memory.session(name)
    session.prefill(CONVERSATION)
    return session


def assert_never_saw(session: Session) -> None:
    branch = session.branches.latest
    assert branch is not None
    engine = require(branch.engine, Scoring, "This test")
    fresh = engine.create()
    engine.prefill(fresh, engine.tokens(branch.seq), engine.positions(branch.seq))
    torch.testing.assert_close(engine.score(branch.seq, [5]), engine.score(fresh, [5]), atol=2e-4, rtol=0)
    engine.free(fresh)


def test_a_path_and_an_eraser_file_are_enough(memory: Memory) -> None:
    assert isinstance(memory.engine, LlamaCppEngine)
    assert memory.eraser is not None
    assert memory.eraser.name == "steer"
    session = read(memory)
    report = session.retract("c1", reason="wrong")
    assert report.eraser == "steer"
    assert report.tokens_erased > 0
    assert session.chat(CONVERSATION, max_tokens=4).usage.reused > 0


def test_an_eraser_may_be_a_directory_that_is_not_beside_the_model(
    converted: Callable[[str], Path], eraser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(eraser)
    for name in (str(eraser), "eraser.gguf"):
        assert steering_of(Memory(str(converted("tiny")), eraser=name).engine) is not None


@pytest.mark.parametrize("name", ERASERS)
def test_sessions_share_the_context_and_keep_to_themselves(memory: Memory, name: str) -> None:
    one, other = read(memory, "one"), read(memory, "other")
    before = other.chat(CONVERSATION, max_tokens=6).text
    one.retract("c1", eraser=name)
    one.chat(CONVERSATION, max_tokens=6)
    memory.delete_session("other")
    assert read(memory, "other").chat(CONVERSATION, max_tokens=6).text == before
    if ERASERS[name].exact:
        assert_never_saw(one)


def test_an_undone_retraction_is_read_again(memory: Memory) -> None:
    session = read(memory)
    before = session.chat(CONVERSATION, max_tokens=6).text
    session.undo(session.retract("c1", eraser="drop"))
    assert session.chat(CONVERSATION, max_tokens=6).text == before


def test_healing_makes_it_exact(converted: Callable[[str], Path]) -> None:
    memory = Memory(converted("tiny"), dtype="float32", heal="idle")
    session = read(memory)
    report = session.retract("c1", eraser="drop")
    assert memory.healer.wait(20)
    assert session.report(report.id).status == "exact"
    assert_never_saw(session)


@pytest.mark.parametrize("name", ["recompute", "influence", "steer", "selective"])
def test_after_an_error_in_the_middle_of_a_retraction_the_session_goes_on(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What was to be erased is gone, what is kept is right."""
    session = read(memory)
    monkeypatch.setattr(library(), "llama_decode", lambda *_: -3)
    with pytest.raises(KVMemoryError, match="could not run the tokens"):
        session.retract("c1", eraser=name)
    monkeypatch.undo()
    assert session.chat(CONVERSATION, max_tokens=4).usage.generated > 0
    session.retract("c1", eraser="recompute")
    session.chat(CONVERSATION, max_tokens=4)
    assert_never_saw(session)


def test_conversations_that_do_not_fit_together_take_turns(converted: Callable[[str], Path]) -> None:
    """The context holds one of them; the others are kept outside, and not prefilled again."""
    engine = LlamaCppEngine.load(converted("tiny"), context_length=512, cells=512, dtype="float32")
    memory = Memory(engine, heal="never")
    sessions = [read(memory, str(i)) for i in range(6)]
    assert sum(len(engine.positions(s.branches.latest.seq)) for s in sessions if s.branches.latest) > 512
    first = [session.chat(CONVERSATION, max_tokens=4) for session in sessions]
    assert {reply.text for reply in first} == {first[0].text}
    assert all(reply.usage.reused > reply.usage.prefilled for reply in first)
