"""The same conversation, retraction and question on transformers and on llama.cpp, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_memory import Memory
from kv_memory.cli.demo import MESSAGES, QUESTION, TARGET
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers import ERASERS
from kv_memory.gguf import pocket_gguf
from kv_memory.pocket import model_path
from kv_memory.trained.export import export_adapter
from kv_memory.trained.files import open_eraser
from tests.lora import save_eraser

ASKED = [{"role": "user", "content": QUESTION}]
LARGEST = 1e-3


@dataclass
class Outcome:
    answers: tuple[str, str]
    """Before the retraction and after it."""
    logits: Tensor
    """[tokens, vocabulary] of a text after the second answer."""


@pytest.fixture(scope="module")
def memories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Memory, Memory]]:
    """Both engines on the pocket model, each with the same random eraser loaded."""
    folder = tmp_path_factory.mktemp("eraser")
    reference = Memory(device="cpu", dtype="float32", heal="never")
    assert isinstance(reference.engine, TransformersEngine)
    save_eraser(reference.engine, reference.engine._forward.model, folder)
    open_eraser(folder).load(reference.engine)
    export_adapter(folder, model_path(), folder / "eraser.gguf")
    settings: dict[str, Any] = {"dtype": "float32", "heal": "never", "calibration": reference.calibration}
    yield reference, Memory(pocket_gguf(), eraser=folder / "eraser.gguf", **settings)


def outcome(memory: Memory, eraser: str) -> Outcome:
    assert isinstance(memory.engine, (TransformersEngine, LlamaCppEngine))
    session = memory.new_session(eraser)
    before = session.chat([*MESSAGES, *ASKED], max_tokens=12).text
    session.chat(MESSAGES, max_tokens=1)  # a branch that ends before the question
    session.retract(TARGET, eraser=eraser)
    after = session.chat([*MESSAGES, *ASKED], max_tokens=12).text
    branch = max(session.branches, key=lambda b: b.used)
    logits = []
    for token in memory.engine.tokenizer.encode(" The price of the desk is 249.00, not 1.00", special=False)[0]:
        memory.engine.prefill(branch.seq, [token])
        logits.append(memory.engine.next_logits(branch.seq))
    memory.delete_session(eraser)
    return Outcome((before, after), torch.stack(logits))


@pytest.mark.parametrize("eraser", ERASERS)
def test_answers_are_the_same_and_logits_close(
    memories: tuple[Memory, Memory], eraser: str, measured: Callable[[str], None]
) -> None:
    expected, actual = (outcome(memory, eraser) for memory in memories)
    largest = float((actual.logits - expected.logits).abs().max())
    measured(f"llama.cpp against transformers, float32, after {eraser}: logits differ by at most {largest:.1e}")
    assert actual.answers == expected.answers
    assert largest < LARGEST


def test_an_eraser_directory_is_converted_and_steers_alike(memories: tuple[Memory, Memory], tmp_path: Path) -> None:
    reference, _ = memories
    assert isinstance(reference.engine, TransformersEngine)
    folder = save_eraser(reference.engine, reference.engine._forward.model, tmp_path)
    memory = Memory(pocket_gguf(), eraser=folder, dtype="float32", heal="never")
    expected, actual = outcome(reference, "steer"), outcome(memory, "steer")
    assert actual.answers == expected.answers
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=LARGEST)
