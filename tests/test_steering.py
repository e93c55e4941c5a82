"""Sessions with steering states in their cache: they hold no text, follow every edit, and go when they are healed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kv_memory import CharRange, Memory, Session, SpanStatus
from kv_memory.engines.base import STEERED, Engine
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.steering import steering_of
from kv_memory.errors import UnsupportedOperationError
from tests.lora import steering_engine
from tests.test_session import CONVERSATION, SECRET, in_step, latest_ids
from tests.tiny import memory_of, tiny_engine

ENGINES: dict[str, Engine] = {
    "all slots": steering_engine(None),
    "3 slots": steering_engine(3),
    "3 slots, gap closed": steering_engine(3, closes=True),
}


@pytest.fixture(params=ENGINES)
def session(request: pytest.FixtureRequest) -> Session:
    session = Memory(ENGINES[request.param], eraser="steer", heal="never").session("s")
    session.prefill(CONVERSATION)
    return session


def states(session: Session) -> int:
    """How many steering states the latest conversation holds."""
    branch = session.branches.latest
    assert branch is not None
    assert in_step(session)
    return session._engine.tokens(branch.seq).count(STEERED)


def slots(session: Session, tokens: int) -> int:
    """Return how many of this many `tokens` the loaded eraser steers."""
    steering = steering_of(session._engine)
    assert steering is not None
    return tokens if steering.slots is None else min(steering.slots, tokens)


def assert_like_never_saw(session: Session, *targets: Any, history: list[dict[str, Any]] = CONVERSATION) -> None:
    fresh = memory_of(session).session("fresh")
    fresh.prefill(history, without=targets)
    expected = fresh.score(history, "yes")
    torch.testing.assert_close(session.score(history, "yes"), expected, atol=1e-5, rtol=0)


def test_the_report_counts_steering_states_as_recomputed(session: Session) -> None:
    before = len(latest_ids(session))
    report = session.retract("c1")
    assert (report.eraser, report.status, report.tokens_erased) == ("steer", "approximate", len(SECRET))
    assert report.tokens_recomputed == states(session) == slots(session, len(SECRET))
    assert report.tokens_reused == before - len(SECRET)
    (span,) = report.spans
    steering = steering_of(session._engine)
    assert steering is not None
    width = states(session) if steering.closes else len(SECRET)
    assert (span.tokens, span.end - span.start, span.status) == (0, width, SpanStatus.APPROXIMATE)


def test_the_next_turns_reuse_everything(session: Session) -> None:
    session.retract("c1")
    reply = session.chat(CONVERSATION, max_tokens=4)
    history = [*CONVERSATION, reply.message, {"role": "user", "content": "Go on."}]
    usage = session.prefill(history)
    assert usage.erased == 0
    assert usage.reused == len(latest_ids(session)) - usage.prefilled
    assert states(session) == slots(session, len(SECRET))


def test_an_exact_retraction_removes_the_steering_states(session: Session) -> None:
    session.retract("c1")
    assert session.retract("u1").status == "approximate"
    assert session.retract("c1", eraser="recompute").status == "exact"
    assert states(session) == 0
    assert_like_never_saw(session, "c1", "u1")


def test_an_exact_retraction_of_something_later_removes_them_too(session: Session) -> None:
    session.retract("u1")
    assert session.retract("c1", eraser="recompute").status == "exact"
    assert states(session) == 0
    assert_like_never_saw(session, "c1", "u1")


@pytest.mark.parametrize("eraser", ["drop", "shift", "influence", "selective", "repair", "shift+influence"])
def test_other_erasers_after_it(session: Session, eraser: str) -> None:
    session.retract("c1")
    held = states(session)
    session.retract("u1", eraser=eraser)
    assert states(session) == held
    session.retract("u1", eraser="recompute")
    assert_like_never_saw(session, "c1", "u1")


def test_a_message_around_a_steered_range(session: Session) -> None:
    session.retract(CharRange(message="c1", start=4, end=8))
    inner = states(session)
    session.retract("c1")
    assert states(session) == inner + slots(session, 4) + slots(session, len(SECRET) - 8)
    assert session.retract(CharRange(message="c1", start=5, end=6)).tokens_erased == 0
    session.retract("c1", eraser="recompute")
    assert_like_never_saw(session, "c1")


def test_a_fork_has_its_own(session: Session) -> None:
    session.retract("c1")
    fork = session.fork()
    assert states(fork) == states(session) > 0
    fork.retract("c1", eraser="recompute")
    assert (states(fork), states(session) > 0) == (0, True)


def test_a_history_that_diverges_right_after_them_keeps_none_at_its_end(session: Session) -> None:
    """The first message is removed, scaffolding too, so that only its steering states are left at the end."""
    history = [*CONVERSATION, {"role": "assistant", "id": "a", "content": "4711"}, {"role": "user", "content": "Hm."}]
    session.prefill(history)
    session.prefill([*CONVERSATION, history[-1]])
    assert states(session) > 0
    session.prefill(CONVERSATION)
    assert states(session) == 0
    assert_like_never_saw(session)


def test_dropping_all_that_follows_removes_them(session: Session) -> None:
    history = [*CONVERSATION, {"role": "user", "id": "u3", "content": "Bye."}]
    session.prefill(history)
    session.chat(history[:-2] + history[-1:], max_tokens=1)  # u2 vanished, and steered
    branch = session.branches.latest
    assert branch is not None
    assert states(session) > 0
    branch.remove(branch.ledger.entries[4:], None)
    assert states(session) == 0
    assert branch.ledger.approximate_from is None


def test_what_was_erased_last_leaves_none(session: Session) -> None:
    branch = session.branches.latest
    assert branch is not None
    branch.remove(branch.ledger.entries[-1:], None)
    assert states(session) == 0
    assert_like_never_saw(session, history=CONVERSATION[:-1])


def test_they_count_as_cells(session: Session) -> None:
    branch = session.branches.latest
    assert branch is not None
    session.retract("c1")
    assert branch.cells == len(latest_ids(session)) + slots(session, len(SECRET))


def test_evicted_and_read_again_there_are_none(session: Session) -> None:
    session.retract("c1")
    session.evict()
    session.prefill(CONVERSATION)
    assert states(session) == 0
    assert_like_never_saw(session, "c1")


def test_an_undone_retraction_reads_the_text_again(session: Session) -> None:
    session.undo(session.retract("c1"))
    session.prefill(CONVERSATION)
    assert states(session) == 0
    assert SECRET in session._engine.tokenizer.decode(latest_ids(session))


class _Failing(Recompute):
    name = "failing"

    def erase(self, engine: Any, seq: Any, spans: Any, approximate_from: Any = None) -> Any:
        engine.truncate(seq, min([approximate_from, *(start for start, _ in spans)]))
        raise KeyboardInterrupt


def test_a_recompute_that_fails_midway_leaves_a_shorter_but_right_conversation(session: Session) -> None:
    session.retract("u1")
    with pytest.raises(KeyboardInterrupt):
        session.retract("c1", eraser=_Failing())
    assert in_step(session)
    session.prefill(CONVERSATION)
    assert states(session) == 0
    assert_like_never_saw(session, "u1", "c1")


@pytest.mark.parametrize("eraser", ["steer", "steer+repair", "steer+influence"])
def test_without_a_trained_eraser_it_is_refused_before_anything_is_changed(eraser: str) -> None:
    session = Memory(tiny_engine(), heal="never").session("a")
    session.prefill(CONVERSATION)
    with pytest.raises(UnsupportedOperationError, match=r"no trained eraser of tiny is loaded; give Memory\(eraser="):
        session.retract("c1", eraser=eraser)
    with pytest.raises(UnsupportedOperationError):
        session.chat(CONVERSATION, history_eraser=eraser)
    with pytest.raises(UnsupportedOperationError):
        Memory(tiny_engine(), eraser=eraser)
    assert SECRET in session._engine.tokenizer.decode(latest_ids(session))
    assert session.reports == []
