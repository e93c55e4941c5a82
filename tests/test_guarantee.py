"""What was retracted is in no cache that answers, whichever branch, stream, fork or failure came between.

"Visible" means that the decoded cells of a branch hold the text.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv_memory import (
    AuditLog,
    Category,
    CharRange,
    ConversationError,
    FinishReason,
    Memory,
    Policy,
    Reason,
    RetractionStatus,
    Session,
    SpanKind,
    TargetError,
)
from kv_memory.engines.base import STEERED, Token
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.recompute import Recompute
from kv_memory.sessions.branch import Branch
from tests.lora import steering_engine
from tests.tiny import lent_memory, tiny_engine

SECRET = "SECRET42"
H: list[dict[str, Any]] = [
    {"role": "user", "id": "u", "content": "q"},
    {"role": "tool", "tool_call_id": "c1", "content": SECRET},
    {"role": "user", "content": "z"},
]
ENGINE = steering_engine()
ERASERS = ["recompute", "drop", "shift", "influence", "shift+influence", "steer"]


@pytest.fixture(params=ERASERS)
def eraser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield from lent_memory(ENGINE)


@pytest.fixture
def session(memory: Memory) -> Session:
    return memory.session("s")


def visible(*sessions: Session, text: str = SECRET) -> bool:
    """Whether a branch of these sessions holds the text."""
    return any(text in decoded(b) for s in sessions for b in s.branches if b.resident)


def decoded(branch: Branch) -> str:
    return branch.engine.tokenizer.decode([i for i in branch.engine.tokens(branch.seq) if i != STEERED])


def begun(session: Session, **options: Any) -> Any:
    """A stream of which one text was taken, and its iterator."""
    stream = session.stream(H, max_tokens=20, temperature=1.0, seed=1, **options)
    items = iter(stream)
    next(items)
    return stream, items


def test_a_second_answer_while_one_is_generated_cannot_see_it(session: Session, eraser: str) -> None:
    stream, _ = begun(session)
    assert session.retract("c1", eraser=eraser).status is RetractionStatus.QUEUED
    session.chat(H, max_tokens=2)
    free = [branch for branch in session.branches if not branch.busy]
    assert free and not any(SECRET in decoded(branch) for branch in free)
    stream.finish()
    assert not visible(session)
    assert session.reports[-1].status is not RetractionStatus.QUEUED


def test_a_fork_while_an_answer_is_generated_cannot_see_it(session: Session, eraser: str) -> None:
    stream, _ = begun(session)
    session.retract("c1", eraser=eraser)
    fork = session.fork()
    assert not visible(fork)
    stream.close()
    assert not visible(session, fork)


def test_a_retraction_for_security_ends_the_answer_that_can_see_it(session: Session) -> None:
    stream, items = begun(session)
    report = session.retract("c1", reason="security: leak")
    assert report.status is RetractionStatus.EXACT
    assert not visible(session)
    assert list(items) == []
    assert stream.reply.finish_reason is FinishReason.RETRACTED
    assert not any(branch.busy for branch in session.branches)
    assert session.chat(H, max_tokens=2).usage.left_out == len(SECRET)


def test_a_policy_may_leave_the_answer_to_its_end() -> None:
    memory = Memory(ENGINE, heal="never", policy=Policy.of({"categories": {"security": {"interrupt": False}}}))
    session = memory.session("s")
    stream, _ = begun(session)
    assert session.retract("c1", reason="security").status is RetractionStatus.QUEUED
    assert stream.finish().finish_reason is not FinishReason.RETRACTED
    assert not visible(session)
    assert session.reports[-1].status is RetractionStatus.EXACT


def test_leaving_out_what_was_read_before_erases_it(session: Session) -> None:
    session.prefill(H)
    assert session.prefill(H, without=["c1"]).left_out == len(SECRET)
    assert not visible(session)
    session.chat(H, max_tokens=2)
    assert not visible(session)


def test_what_another_process_retracted_is_erased_before_the_next_answer(tmp_path: Path) -> None:
    here, there = (Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite") for _ in range(2))
    session = here.session("s")
    session.prefill(H)
    other = there.session("s")
    other.prefill(H)
    other.retract("c1", reason="wrong")
    session.chat(H, max_tokens=2)
    assert not visible(session)
    assert not visible(session.fork())


@pytest.mark.parametrize("copy", ["fork", "without"])
def test_a_copy_knows_what_an_earlier_process_retracted(tmp_path: Path, copy: str) -> None:
    more = [*H, {"role": "user", "id": "more", "content": "more"}]
    session = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite").session("s")
    session.prefill(more)
    session.retract("c1")
    again = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite").session("s")
    again.prefill([more[-1]])
    other = again.fork() if copy == "fork" else again.without("more")
    assert other.prefill(more).left_out >= len(SECRET)
    assert not visible(again, other)


FIRST, LAST = {"role": "user", "id": "u", "content": "first words"}, {"role": "user", "content": "last words"}
LONG: list[dict[str, Any]] = [FIRST, H[1], {"role": "user", "content": "middle"}, LAST]


@pytest.mark.parametrize(
    ("left", "gone"),
    [
        (LONG[1:], "first words"),
        (LONG[2:], SECRET),
        ([*LONG[1:], {"role": "user", "content": "more"}], "first words"),
        (LONG[:-1], "last words"),
        (LONG[:2], "middle"),
        ([FIRST, {"role": "user", "content": "other"}, H[1]], "middle"),
        ([LONG[2], LONG[3]], "first words"),
    ],
    ids=["first", "first two", "first, and more", "last", "last two", "where they part", "all but two"],
)
def test_a_message_that_vanished_is_in_no_branch(session: Session, left: list[dict[str, Any]], gone: str) -> None:
    read = session.prefill(LONG).prefilled
    usage = session.prefill(left)
    assert not visible(session, text=gone)
    assert all(message["content"] in decoded(session.branches.latest) for message in left)  # type: ignore[arg-type]
    assert usage.reused + usage.erased == read
    assert session.prefill(LONG).left_out == 0
    assert visible(session, text=gone)


def test_a_conversation_that_may_be_another_agents_takes_nothing_from_the_first(session: Session) -> None:
    session.prefill(LONG)
    for other in (
        [FIRST, {"role": "user", "content": "other"}],
        [LAST],
        [{"role": "system", "content": "Sum up."}, *LONG],
    ):
        session.prefill(other)
    assert session.prefill([*LONG, LAST]).prefilled == session.prefill([LAST], tools=[]).prefilled


def test_scoring_an_earlier_place_takes_nothing_from_the_conversation(session: Session) -> None:
    session.prefill(LONG)
    session.score(LONG[:2], "yes")
    assert session.prefill(LONG).prefilled == 0


class Broken(Recompute):
    """Fails once."""

    def __init__(self) -> None:
        self.calls = 0

    def erase(self, *given: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("out of memory")
        return super().erase(*given, **more)


def test_an_eraser_that_fails_on_one_branch_leaves_the_text_in_none(session: Session) -> None:
    session.prefill(H)
    session.prefill([*H[:2], {"role": "user", "content": "another"}])
    assert len(list(session.branches)) == 2
    with pytest.raises(RuntimeError, match="out of memory"):
        session.retract("c1", eraser=Broken())
    assert not visible(session)


def test_a_queued_retraction_whose_log_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite")
    session = memory.session("s")
    stream, _ = begun(session)
    session.retract("c1")
    session.retract("u", eraser="drop")
    failing = iter([True, False])

    def outcome(self: AuditLog, *given: Any) -> None:
        if next(failing):
            raise RuntimeError("disk full")

    monkeypatch.setattr(AuditLog, "outcome", outcome)
    with pytest.raises(RuntimeError, match="disk full"):
        stream.finish()
    assert not visible(session)
    assert not visible(session, text="q<")


def test_threads_that_chat_while_one_retracts_leave_nothing(session: Session) -> None:
    stop = threading.Event()

    def chat(number: int) -> None:
        while not stop.is_set():
            session.chat([*H, {"role": "user", "content": f"{number}"}], max_tokens=3, temperature=1.0, seed=number)

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    session.retract("c1")
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not visible(session)


def test_score_and_fork_do_what_was_deferred(session: Session) -> None:
    session.prefill(H)
    session.defer(lambda: session.retract("c1"))
    fork = session.fork()
    assert not visible(session, fork)
    session.defer(lambda: session.retract("u"))
    session.score(H, "yes")
    assert not visible(session, text="q<")


@pytest.mark.parametrize("how", ["session", "memory"])
def test_evicting_cancels_what_runs(memory: Memory, session: Session, how: str) -> None:
    stream, items = begun(session)
    if how == "session":
        session.evict()
    else:
        memory.delete_session(session.id)
    assert list(items) == []
    assert stream.reply.finish_reason is FinishReason.CANCELLED
    assert not any(branch.busy for branch in session.branches)


def test_an_answer_of_a_thousand_brackets_is_text(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '<tool_call>{"name": "f", "arguments": ' + "[" * 1500

    def generate(self: TransformersEngine, seq: int, *_: Any) -> Iterator[Token]:
        self.prefill(seq, self.tokenizer.encode(text, special=False)[0])
        yield Token(-1, text, "stop")

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    assert session.chat(H).message["content"] == text
    assert not any(branch.busy for branch in session.branches)


@pytest.mark.parametrize("where", ["progress", "cancelled", "mask"])
def test_a_callback_cannot_call_its_session(session: Session, where: str) -> None:
    callbacks: dict[str, Any] = {
        "progress": lambda done: session.spans(),
        "cancelled": lambda: bool(session.retract("c1")),
        "mask": lambda ids, logits: session.chat(H) and logits,
    }
    with pytest.raises(ConversationError, match="cannot call its memory"):
        session.chat(H, max_tokens=3, **{where: callbacks[where]})
    assert not any(branch.busy for branch in session.branches)
    session.chat(H, max_tokens=1)


def test_a_retraction_is_made_between_the_chunks_of_another_sessions_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.branch.CHUNK", 16)
    memory = Memory(tiny_engine(), heal="never")
    session = memory.session("s")
    session.prefill(H)
    began, done = threading.Event(), threading.Event()

    def slow(tokens: int) -> None:
        began.set()
        time.sleep(0.01)

    def read() -> None:
        memory.session("long").prefill([{"role": "user", "content": "x" * 1500}], progress=slow)
        done.set()

    thread = threading.Thread(target=read)
    thread.start()
    began.wait()
    assert session.retract("c1", reason="security").status is RetractionStatus.EXACT
    assert not done.is_set()
    thread.join()
    assert done.is_set()


def test_an_abandoned_stream_does_not_keep_others_from_healing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_memory.sessions.memory.ABANDONED", 0.1)
    memory = Memory(ENGINE)
    stream, _ = begun(memory.session("abandoned"))
    session = memory.session("s")
    session.prefill(H)
    report = session.retract("c1", eraser="drop")
    assert memory.healer.wait(20)
    assert session.report(report.id).status is RetractionStatus.EXACT
    stream.close()
    memory.healer.stop()


def test_a_turn_is_generated_again_at_its_place(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal calls: only the one after the retracted result is written again."""
    monkeypatch.setattr("kv_memory.sessions.dependence.DEPENDS", -1e9)  # all that came later
    call = {"function": {"name": "f", "arguments": "{}"}}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c0", **call}]},
        {"role": "tool", "tool_call_id": "c0", "content": "nothing"},
        {"role": "tool", "tool_call_id": "c1", "content": SECRET},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c2", **call}]},
    ]
    session.prefill(talk)
    report = session.retract("c1", cascade="regenerate")
    again = session.regenerate(report, talk, max_tokens=3)
    assert again[:3] == talk[:3]
    assert len(again) == 5


def test_a_report_of_another_session_is_refused(memory: Memory, session: Session) -> None:
    session.prefill(H)
    report = session.retract("c1")
    other = memory.session("other")
    with pytest.raises(TargetError, match="of session 's', not of 'other'"):
        other.undo(report)
    with pytest.raises(TargetError, match="use that session"):
        other.regenerate(report, H)


@pytest.mark.parametrize("target", [["c1", "u"], 3, None])
def test_what_is_no_target_is_said(session: Session, target: Any) -> None:
    session.prefill(H)
    with pytest.raises(TargetError, match="A target is the id of"):
        session.retract(target)


def test_characters_that_are_there_are_found(session: Session) -> None:
    session.prefill(H)
    (span,) = session.find(CharRange(message="c1", start=0, end=6))
    assert (span.kind, span.tokens, span.chars) == (SpanKind.RANGE, 6, (0, 6))


def test_a_stream_left_open_does_not_abort_the_process() -> None:
    code = (
        "from tests.tiny import tiny_engine\nfrom kv_memory import Memory\n"
        "stream = Memory(tiny_engine()).session('s').stream([{'role': 'user', 'content': 'q'}], max_tokens=50)\n"
        "for text in stream:\n    break\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr


def test_a_document_is_erased_from_every_branch_that_holds_it(session: Session) -> None:
    part = {"type": "text", "text": SECRET, "document_id": "doc-7"}
    session.prefill([{"role": "user", "content": [part, "main"]}])
    session.prefill([{"role": "system", "content": "sub-agent"}, {"role": "user", "content": ["See: ", part]}])
    report = session.retract("doc-7")
    assert not visible(session)
    assert len(report.spans) == 2
    assert session.find("doc-7")


def test_of_equal_messages_the_one_with_the_id_goes(session: Session) -> None:
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "id": "u2", "content": "yes"},
        {"role": "user", "content": "z"},
    ]
    session.prefill(talk)
    assert [span.message for span in session.retract("u2").spans] == [2]
    assert session.prefill(talk).left_out == len("yes")


def test_span_ids_are_one_messages_in_a_session_and_its_forks(session: Session) -> None:
    session.prefill(H)
    fork = session.fork()
    fork.prefill([{"role": "user", "content": "something else"}])
    ids = {span.id for span in session.spans()} | {span.id for span in fork.spans()}
    assert len(ids) == len(H) + 1


def test_undo_by_kept_rows_brings_back_nothing_that_another_retraction_names(session: Session) -> None:
    part = {"type": "text", "text": SECRET, "document_id": "doc"}
    session.prefill([{"role": "user", "id": "u", "content": ["first ", part, " last"]}, H[2]])
    whole = session.retract("u", eraser="drop", keep_undo=True)
    session.retract("doc", eraser="drop")
    session.undo(whole)
    assert not visible(session)


def test_rows_do_not_outlive_a_stricter_retraction(session: Session) -> None:
    session.prefill(H)
    report = session.retract("c1", eraser="drop", keep_undo=True)
    assert session.state.kept.of(report.id)
    session.retract("c1", reason="privacy")
    assert not session.state.kept.of(report.id)


def test_a_category_is_known_in_any_case() -> None:
    assert Reason.of("Security: leak").category is Category.SECURITY
    assert str(Reason.of("PRIVACY")) == "privacy"
