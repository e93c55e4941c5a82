"""Sessions over a model with recurrent layers: each change of a conversation is exact, and its cost is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kv_memory import AuditLog, CharRange, Memory, Policy, Session
from kv_memory.engines.checkpoints import NEAR, CheckpointSettings
from kv_memory.engines.llama_cpp import LlamaCppRecurrentEngine
from kv_memory.engines.recurrent import CheckpointEngine
from kv_memory.engines.transformers import RecurrentEngine
from kv_memory.errors import ArgumentError, ModelError, UnsupportedOperationError
from kv_memory.policy.choose import default_eraser
from kv_memory.sessions import dependence
from kv_memory.testing.models import CHAT_HYBRID, save_model
from tests.test_session import CONVERSATION, in_step, latest_ids
from tests.tiny import hybrid_engine, tiny_engine

LAYERS = {"transformers": "its layers of type linear_attention", "llama.cpp": "its recurrent layers"}
"""What an engine calls the layers that keep one running state."""
LONG = [
    *CONVERSATION,
    {"role": "assistant", "id": "a1", "content": "The code is what the tool said it was."},
    {"role": "user", "id": "u3", "content": "Are you quite sure of it? Please look again."},
]


@pytest.fixture(scope="module", params=list(LAYERS))
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def engine(library: str, tmp_path_factory: pytest.TempPathFactory) -> CheckpointEngine[Any, Any]:
    """The same model in either library."""
    if library == "transformers":
        return hybrid_engine()
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    from kv_memory.testing.gguf_models import convert

    folder = save_model(CHAT_HYBRID, tmp_path_factory.mktemp(CHAT_HYBRID))
    return LlamaCppRecurrentEngine.load(convert(folder, folder / "model.gguf"), dtype="float32")


@pytest.fixture
def session(engine: CheckpointEngine[Any, Any], request: pytest.FixtureRequest) -> Session:
    return Memory(engine, heal="never").new_session(request.node.name)


def engine_of(session: Session) -> CheckpointEngine[Any, Any]:
    engine = session._engine
    assert isinstance(engine, CheckpointEngine)
    return engine


def next_token(session: Session) -> torch.Tensor:
    branch = session.branches.latest
    assert branch is not None
    return engine_of(session).score(branch.seq, [1])


def assert_fresh(session: Session) -> None:
    """Compare the branch used last with the same tokens read in a sequence of their own."""
    assert in_step(session)
    engine = engine_of(session)
    fresh = engine.create()
    engine.prefill(fresh, latest_ids(session))
    torch.testing.assert_close(next_token(session), engine.score(fresh, [1]), atol=1e-4, rtol=0)
    engine.free(fresh)


def tokens_before(session: Session, message: str) -> int:
    """Return how many tokens run again before this message's content."""
    branch = session.branches.latest
    assert branch is not None
    start = next(e for e in branch.ledger.entries if message in {e.message.id, e.message.tool_call_id}).runs[1].start
    return start - engine_of(session).replayed_from(branch.seq, start)


def test_checkpoints_are_kept_where_messages_begin(session: Session) -> None:
    session.chat(LONG, max_tokens=4)
    engine = engine_of(session)
    branch = session.branches.latest
    assert branch is not None
    starts = [entry.start for entry in branch.ledger.entries]
    assert engine.marks(branch.seq)[: len(starts)] == starts
    assert set(engine.checkpoints.positions(branch.seq)) <= set(starts)
    assert all(start - engine.replayed_from(branch.seq, start) <= NEAR for start in starts)
    assert 0 < tokens_before(session, "u2") < 12


def test_a_retraction_is_exact_and_tells_what_ran_again(session: Session) -> None:
    session.chat(LONG, max_tokens=4)
    before = tokens_before(session, "c1")
    told = session.explain("c1")
    assert told.startswith("recompute: chosen, since")
    assert f"{before} tokens before the span run again too;" in told
    report = session.retract("c1")
    assert (report.eraser, report.status, report.residual) == ("recompute", "exact", 0.0)
    assert report.explanation == told
    branch = session.branches.latest
    assert branch is not None
    entry = next(e for e in branch.ledger.entries if e.message.tool_call_id == "c1")
    assert report.tokens_recomputed == before + branch.ledger.cells_from(entry.runs[0].end)
    assert report.tokens_reused == branch.cells - report.tokens_recomputed
    assert_fresh(session)


def test_it_is_answered_as_by_a_model_that_never_saw_it(session: Session) -> None:
    session.chat(LONG, max_tokens=4)
    session.retract("c1")
    never = Memory(engine_of(session), heal="never").session("never")
    never.prefill(LONG, without=["c1"])
    assert session.chat(LONG, max_tokens=12).text == never.chat(LONG, max_tokens=12).text


def test_after_a_retraction_the_next_one_starts_at_a_checkpoint_too(session: Session) -> None:
    session.chat(LONG, max_tokens=4)
    session.retract("c1")
    assert 0 < tokens_before(session, "u3") < 30
    session.retract("u3")
    assert_fresh(session)


def test_without_checkpoints_it_runs_from_the_beginning() -> None:
    engine = hybrid_engine(CheckpointSettings(0))
    session = Memory(engine, heal="never").session("s")
    session.prefill(LONG)
    report = session.retract("u3")
    assert report.tokens_recomputed == len(latest_ids(session))


@pytest.mark.parametrize("target", ["c1", "u1", CharRange(message="c1", start=4, end=9), "a1"])
def test_undoing_reads_it_again(session: Session, target: Any) -> None:
    session.prefill(LONG)
    ids, told = latest_ids(session), next_token(session)
    session.undo(session.retract(target))
    session.prefill(LONG)
    assert latest_ids(session) == ids
    torch.testing.assert_close(next_token(session), told, atol=1e-4, rtol=0)


def test_forks_and_edited_histories(session: Session) -> None:
    session.chat(LONG, max_tokens=6)
    with session.without("c1") as other:
        other.chat(LONG, max_tokens=3)
        assert_fresh(other)
    fork = session.fork()
    fork.retract("c1")
    fork.chat(LONG, max_tokens=3)
    assert_fresh(fork)
    assert_fresh(session)
    changed = [*LONG[:4], {"role": "user", "id": "u9", "content": "Something else then."}]
    session.chat(changed, max_tokens=3)
    assert_fresh(session)
    session.prefill([*LONG[:3], *LONG[5:]])  # messages vanished in the middle
    assert_fresh(session)


def test_dependent_turns_are_written_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependence, "DEPENDS", -1e9)
    messages = [*CONVERSATION, session.chat(CONVERSATION, max_tokens=6).message]
    report = session.retract("c1", cascade="report")
    assert len(report.dependences) == 1
    again = session.regenerate(report, messages)
    assert [message["role"] for message in again] == [message["role"] for message in messages]
    assert_fresh(session)


def test_a_policy_for_security_and_the_audit_log(engine: CheckpointEngine[Any, Any], tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log.sqlite")
    session = Memory(engine, policy=Policy(residual=0.1), audit=log, heal="never").session("s")
    session.prefill(LONG)
    report = session.retract("c1", reason="security: injected")
    assert (report.status, report.eraser) == ("exact", "recompute")
    assert_fresh(session)
    session.heal()
    assert_fresh(session)
    assert [row.tokens_recomputed for row in log.entries() if row.status == "exact"] == [report.tokens_recomputed]
    again = Memory(engine, audit=log, heal="never").session("s")
    again.prefill(LONG)
    assert latest_ids(again) == latest_ids(session)


def test_approximate_erasers_and_kept_rows_are_refused_with_the_kind_of_layer(session: Session, library: str) -> None:
    session.prefill(LONG)
    ids = latest_ids(session)
    asked: dict[str, Any]
    for asked in ({"eraser": "influence"}, {"keep_undo": True}):
        with pytest.raises(UnsupportedOperationError, match=f"{LAYERS[library]} keep one running"):
            session.retract("c1", **asked)
    assert latest_ids(session) == ids
    assert default_eraser(engine_of(session), 10_000).name == "recompute"


def test_the_memory_of_checkpoints_is_set_where_the_model_is_named(tmp_path: Path) -> None:
    path = save_model(CHAT_HYBRID, tmp_path)
    memory = Memory(path, checkpoint_mb=2, checkpoint_device="cpu", dtype="float32")
    assert isinstance(memory.engine, RecurrentEngine)
    assert memory.engine.checkpoints.budget == 2e6
    with pytest.raises(ModelError, match="A ready engine has a checkpoint_mb already; give it to the engine"):
        Memory(tiny_engine(), checkpoint_mb=2)
    with pytest.raises(ArgumentError, match="checkpoint_mb is a number of megabytes; got a value of type str"):
        Memory(path, checkpoint_mb="2")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="has no recurrent layers, so that it needs no checkpoints"):
        Memory(checkpoint_mb=2)
