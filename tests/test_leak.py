"""After an erasure the erased value is as unlikely as if it had never been read, on the demo's conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kv_memory import Memory, Session
from kv_memory.cli.demo import ERASED_ANSWER, MESSAGES, QUESTION, TARGET, TRUE_ANSWER
from kv_memory.erasers import ERASERS

ASKED = [*MESSAGES, {"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def memory() -> Memory:
    memory = Memory(heal="never")
    memory.session("read").prefill(MESSAGES)
    memory.session("never").prefill(MESSAGES, without=[TARGET])
    return memory


def probability(session: Session, answer: str) -> float:
    """Return the probability that the model's answer begins like this."""
    ids, _ = session._engine.tokenizer.encode(answer, special=False)
    scores = session.score(ASKED, answer)
    return float(scores[list(range(len(ids))), ids].sum().exp())


def test_the_model_had_read_the_value(memory: Memory) -> None:
    assert probability(memory.session("read"), ERASED_ANSWER) > 0.5
    assert probability(memory.session("never"), ERASED_ANSWER) < 0.01
    assert probability(memory.session("never"), TRUE_ANSWER) > 0.5


@pytest.mark.parametrize("eraser", ERASERS)
def test_the_erased_value_is_as_unlikely_as_never_read(
    memory: Memory, eraser: str, measured: Callable[[str], None]
) -> None:
    fork = memory.session("read").fork(eraser)
    fork.retract(TARGET, eraser=eraser)
    leaked, never = probability(fork, ERASED_ANSWER), probability(memory.session("never"), ERASED_ANSWER)
    measured(f"leak check, {eraser}: the erased value has probability {leaked:.2e} (never saw it: {never:.2e})")
    if ERASERS[eraser].exact:
        assert leaked == pytest.approx(never, rel=1e-3, abs=1e-9)
