from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory
from kv_memory.errors import ContextLengthError, KVMemoryError, ModelError, PolicyError
from tests.test_session import CONVERSATION, SECRET, latest_ids
from tests.tiny import tiny_engine


def test_the_least_recently_used_conversation_is_evicted_and_read_again() -> None:
    memory = Memory(tiny_engine(), cache_tokens=250)
    first, second = memory.session("first"), memory.session("second")
    first.prefill(CONVERSATION)
    second.prefill(CONVERSATION)
    usage = first.prefill(CONVERSATION)
    assert usage.reused + usage.prefilled > 100
    memory.session("third").prefill(CONVERSATION)
    assert second.prefill(CONVERSATION).reused == 0


def test_what_was_retracted_stays_retracted_through_an_eviction() -> None:
    memory = Memory(tiny_engine(), heal="never")
    session = memory.session("a")
    session.prefill(CONVERSATION)
    session.retract("c1")
    session.evict()
    session.prefill(CONVERSATION)
    assert SECRET not in memory.engine.tokenizer.decode(latest_ids(session))


def test_an_evicted_conversation_can_be_retracted_from() -> None:
    memory = Memory(tiny_engine(), heal="never")
    session = memory.session("a")
    session.prefill(CONVERSATION)
    session.evict()
    assert session.retract("c1").status == "exact"
    session.prefill(CONVERSATION)
    assert SECRET not in memory.engine.tokenizer.decode(latest_ids(session))


def test_a_conversation_beyond_the_budget_is_refused() -> None:
    memory = Memory(tiny_engine(), cache_tokens=50)
    with pytest.raises(ContextLengthError, match="at most 50; raise cache_tokens"):
        memory.session("a").prefill(CONVERSATION)


def test_a_forgotten_session_is_gone() -> None:
    memory = Memory(tiny_engine(), heal="never")
    memory.session("a").prefill(CONVERSATION)
    memory.delete_session("a")
    memory.delete_session("a")
    assert memory.sessions() == []
    assert memory.session("a").prefill(CONVERSATION).reused == 0


def test_a_taken_id_is_refused() -> None:
    memory = Memory(tiny_engine(), heal="never")
    memory.session("a")
    with pytest.raises(KVMemoryError, match="already a session 'a'"):
        memory.session("b").fork("a")


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_path_that_is_not_a_model_is_one_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "model"
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("no model")
    with pytest.raises(ModelError) as error:
        Memory(str(path))
    assert "\n" not in str(error.value)
    assert "model" in str(error.value)


def test_importing_the_package_is_quick() -> None:
    code = (
        "import time; t = time.perf_counter(); import kv_memory; assert time.perf_counter() - t < 0.5; "
        "import sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heal": "later"}, "no heal='later'; give one of idle, now, never"),
        ({"policy": {"heal": "now"}}, "not a dict; use Policy.of"),
        ({"cache_tokens": -5}, "at least 1, not -5"),
    ],
)
def test_what_is_no_setting_is_said_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Memory(tiny_engine(), **given)
