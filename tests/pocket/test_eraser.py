"""The eraser that comes with the pocket model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kv_memory import Memory
from kv_memory.calibration.record import FILE, load
from kv_memory.cli.demo import MESSAGES, QUESTION, TARGET
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.steering import steering_of
from kv_memory.evaluation.compare import compare
from kv_memory.pocket import model_path
from kv_memory.trained.export import export_adapter
from kv_memory.trained.files import BESIDE, POCKET, open_eraser

LIMIT = 10_000_000
"""Bytes that the eraser may take in the package."""


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield Memory(heal="never")


def test_it_is_loaded_when_steer_is_asked_for(memory: Memory) -> None:
    session = memory.session("s")
    session.prefill(MESSAGES)
    assert steering_of(memory.engine) is None
    assert session.retract(TARGET, eraser="steer").tokens_recomputed == 4
    assert steering_of(memory.engine) is not None


def test_it_is_loaded_for_what_vanished_from_the_history(memory: Memory) -> None:
    session = memory.session("s")
    session.prefill(MESSAGES)
    gone = next(place for place, message in enumerate(MESSAGES) if message.get("tool_call_id") == TARGET)
    emptied = [m | {"content": "-"} if place == gone else m for place, m in enumerate(MESSAGES)]
    session.chat([*emptied, {"role": "user", "content": QUESTION}], history_eraser="steer", max_tokens=1)
    assert steering_of(memory.engine) is not None


def test_it_is_loaded_to_attribute_an_answer(memory: Memory) -> None:
    session = memory.session("s")
    answer = {"role": "assistant", "id": "a", "content": "249.00"}
    session.prefill([*MESSAGES, {"role": "user", "content": QUESTION}, answer])
    assert session.attribute("a", TARGET, eraser="steer")
    assert steering_of(memory.engine) is not None


@pytest.mark.parametrize("eraser", ["steer", "steer+repair", "steer+influence"])
def test_the_demo_answers_as_never_saw(memory: Memory, eraser: str) -> None:
    result = compare(memory, MESSAGES, [TARGET], question=QUESTION, eraser=eraser)
    assert result.answers.before != result.answers.after == result.answers.never_saw


def test_nothing_changes_where_nothing_is_erased(memory: Memory) -> None:
    def scores() -> torch.Tensor:
        memory.delete_session("s")
        session = memory.session("s")
        session.prefill(MESSAGES)
        assert isinstance(memory.engine, TransformersEngine)
        return memory.engine.score(next(iter(session.branches)).seq, range(100, 110))

    before = scores()
    memory.load_eraser("steer")
    assert steering_of(memory.engine) is not None
    assert torch.equal(before, scores())


def test_by_the_name_pocket_it_is_the_memorys_own() -> None:
    steering = steering_of(Memory(eraser=POCKET, heal="never").engine)
    assert steering is not None and steering.closes and steering.slots == 4


def test_its_calibration_is_the_models() -> None:
    assert open_eraser(POCKET).calibration == load(model_path() / FILE)


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in (model_path() / BESIDE).iterdir()) <= LIMIT


def test_it_can_be_written_for_llama_cpp(tmp_path: Path) -> None:
    export_adapter(POCKET, model_path(), tmp_path / "eraser.gguf")
    assert open_eraser(tmp_path / "eraser.gguf").record == open_eraser(POCKET).record
