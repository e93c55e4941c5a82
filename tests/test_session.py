"""A session keeps ledger and cells in step, reuses what it can, and never reads again what was retracted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from kv_memory import CharRange, Memory, Session, SpanKind, SpanStatus
from kv_memory.engines.base import STEERED
from kv_memory.erasers import ERASERS
from kv_memory.erasers.base import Eraser
from kv_memory.errors import (
    AmbiguousTargetError,
    ContextLengthError,
    ConversationError,
    TargetError,
    UnknownTargetError,
)
from tests.lora import steering_engine
from tests.tiny import memory_of, tiny_engine

SECRET = "the code is 4711"
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "id": "u1", "content": "What is the code?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": SECRET},
    {"role": "user", "id": "u2", "content": "And now?"},
]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(steering_engine(), eraser="influence", heal="never")


@pytest.fixture
def session(memory: Memory, request: pytest.FixtureRequest) -> Session:
    return memory.new_session(request.node.name)


def in_step(session: Session) -> bool:
    engine = session._engine
    return all(
        branch.ledger.positions() == engine.positions(branch.seq)
        and branch.ledger.token_ids() == engine.tokens(branch.seq)
        for branch in session.branches
        if branch.resident
    )


def edited(index: int, **change: Any) -> list[dict[str, Any]]:
    return [{**m, **change} if i == index else m for i, m in enumerate(CONVERSATION)]


def latest_ids(session: Session) -> list[int]:
    branch = session.branches.latest
    assert branch is not None
    return [token for token in session._engine.tokens(branch.seq) if token != STEERED]


# alignment


def test_the_next_call_prefills_only_what_is_new(session: Session) -> None:
    reply = session.chat(CONVERSATION, max_tokens=4)
    more = {"role": "user", "content": "Go on."}
    usage = session.prefill([*CONVERSATION, reply.message, more])
    assert usage.prefilled == len("<|im_start|>user\nGo on.<|im_end|>\n") - len("<|im_start|><|im_end|>") + 2
    assert in_step(session)


def test_a_generated_turn_stays_in_the_cache_as_it_was_generated(session: Session) -> None:
    start = session.prefill(CONVERSATION).prefilled
    reply = session.chat(CONVERSATION, max_tokens=6)
    ids = latest_ids(session)[start:]
    written = session._engine.tokenizer.decode(ids)
    assert written.strip("\n").removeprefix("assistant\n") == reply.text


def test_the_same_conversation_with_ids_stamped_later_is_reused(session: Session) -> None:
    session.prefill(CONVERSATION)
    assert session.prefill(edited(4, id="stamped")).prefilled == 0
    assert session.retract("stamped").tokens_erased == len("And now?")


def test_a_corrected_message_is_read_again_from_there(session: Session) -> None:
    session.prefill(CONVERSATION)
    usage = session.prefill(edited(3, content="the code is 9999"))
    result = next(span for span in session.spans() if span.kind is SpanKind.TOOL_RESULT)
    assert usage.reused == result.start - len("user\n\n") - 2  # two structure tokens open it too
    assert "9999" in session._engine.tokenizer.decode(latest_ids(session))
    assert in_step(session)


def test_a_known_id_with_other_text_revives_and_erases_nothing(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.retract("c1")
    session.prefill(edited(3, content="quite another result"))
    text = session._engine.tokenizer.decode(latest_ids(session))
    assert "quite another result" in text
    assert SECRET not in text


def test_a_message_that_vanished_is_erased_from_the_cache(session: Session) -> None:
    session.prefill(CONVERSATION)
    usage = session.prefill([m for i, m in enumerate(CONVERSATION) if i not in (2, 3)])
    assert usage.prefilled == 0
    assert usage.erased > len(SECRET)
    assert SECRET not in session._engine.tokenizer.decode(latest_ids(session))
    assert in_step(session)


def test_a_message_that_was_emptied_under_its_id_is_erased_from_the_cache(session: Session) -> None:
    session.prefill(CONVERSATION)
    usage = session.prefill(edited(3, content=""))
    assert (usage.prefilled, usage.erased) == (0, len(SECRET))
    assert in_step(session)


def test_another_agents_conversation_does_not_touch_the_first(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.prefill([CONVERSATION[0], {"role": "user", "content": "Summarize."}])
    session.prefill([{"role": "user", "content": "And now?"}])
    assert session.prefill(CONVERSATION).prefilled == 0
    assert in_step(session)


def test_other_tools_are_another_conversation(session: Session) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
    session.prefill(CONVERSATION)
    assert session.prefill(CONVERSATION, tools).reused == 0


def test_a_second_tool_result_reads_the_first_again_where_the_template_wraps_them_together(session: Session) -> None:
    second = {"role": "tool", "tool_call_id": "c2", "content": "more"}
    session.prefill(CONVERSATION[:4])
    session.prefill([*CONVERSATION[:4], second])
    together = latest_ids(session)
    fresh = memory_of(session).session("fresh-tools")
    fresh.prefill([*CONVERSATION[:4], second])
    assert together == latest_ids(fresh)


# retraction


@pytest.mark.parametrize(
    ("following", "eraser", "status"), [(1, "recompute", "exact"), (200, "shift+influence", "approximate")]
)
def test_without_a_name_the_eraser_is_exact_where_little_follows(following: int, eraser: str, status: str) -> None:
    session = Memory(tiny_engine(), heal="never").session("default")
    session.prefill([*CONVERSATION, {"role": "user", "content": "x" * following}])
    report = session.retract("c1")
    assert (report.eraser, report.status) == (eraser, status)


@pytest.mark.parametrize("eraser", ERASERS)
def test_retracted_text_is_gone_and_stays_gone(session: Session, eraser: str) -> None:
    session.prefill(CONVERSATION)
    report = session.retract("c1", eraser=eraser, reason="wrong")
    assert report.tokens_erased == len(SECRET)
    assert report.status == ("exact" if eraser == "recompute" else "approximate")
    for history in (CONVERSATION, report.tombstones(CONVERSATION)):
        usage = session.prefill(history)
        assert usage.prefilled == 0
        assert SECRET not in session._engine.tokenizer.decode(latest_ids(session))
    assert in_step(session)


def test_exact_retraction_gives_the_logits_of_a_fresh_model_on_the_tombstoned_messages(session: Session) -> None:
    session.prefill(CONVERSATION)
    report = session.retract("c1", eraser="recompute")
    fresh = memory_of(session).session("fresh-exact")
    torch.testing.assert_close(
        session.score(CONVERSATION, "yes"),
        fresh.score(report.tombstones(CONVERSATION), "yes"),
        atol=1e-5,
        rtol=0,
    )


def test_an_exact_retraction_after_an_approximate_one_heals_both(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.retract("c1", eraser="drop")
    assert session.retract("u2", eraser="drop").status == "approximate"
    fresh = memory_of(session).session("fresh-heal")
    fresh.prefill(CONVERSATION, without=["c1", "u2"])
    report = session.retract("c1", eraser="recompute")
    assert report.status == "exact"
    torch.testing.assert_close(session.score(CONVERSATION, "yes"), fresh.score(CONVERSATION, "yes"), atol=1e-5, rtol=0)


def test_left_out_from_the_start_equals_tombstoned(session: Session) -> None:
    session.prefill(CONVERSATION, without=["c1"])
    assert SECRET not in session._engine.tokenizer.decode(latest_ids(session))
    assert [span.status for span in session.spans() if span.tool_call_id == "c1"][-1] is SpanStatus.EXACT


def test_retraction_reaches_every_branch(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.prefill([*CONVERSATION[:4], {"role": "user", "content": "Something else."}])
    report = session.retract("c1")
    assert report.tokens_erased == 2 * len(SECRET)
    assert in_step(session)


def test_a_target_of_an_earlier_branch_is_found_and_reported(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.prefill([CONVERSATION[0], {"role": "user", "content": "Something else."}])
    report = session.retract("c1")
    assert (report.status, report.tokens_erased) == ("approximate", len(SECRET))
    assert [span.tool_call_id for span in report.spans] == ["c1"]


def test_retracting_twice_changes_nothing(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.retract("c1")
    again = session.retract("c1")
    assert (again.tokens_erased, again.tokens_recomputed, again.status) == (0, 0, "approximate")


def test_the_last_message_can_be_retracted_and_the_conversation_goes_on(session: Session) -> None:
    session.prefill(CONVERSATION)
    assert session.retract("u2", eraser="recompute").status == "exact"
    assert session.chat(CONVERSATION, max_tokens=2).usage.reused > 0
    assert in_step(session)


def test_a_character_range_is_widened_to_whole_tokens(session: Session) -> None:
    text = "a é b"
    session.prefill([{"role": "user", "id": "u", "content": text}, {"role": "user", "content": "x"}])
    report = session.retract(CharRange(message="u", start=2, end=3))
    assert report.tokens_erased == len("é".encode())
    assert [(s.kind, s.chars) for s in report.spans] == [(SpanKind.RANGE, (2, 3))]
    assert report.tombstones([{"role": "user", "id": "u", "content": text}])[0]["content"] == "a  b"
    assert in_step(session)


def test_a_document_is_erased_wherever_it_stands(session: Session) -> None:
    def passage(text: str, document: str) -> dict[str, str]:
        return {"type": "text", "text": text, "document_id": document}

    history: list[dict[str, Any]] = [
        {"role": "user", "content": [passage("alpha ", "d1"), passage("beta ", "d2")]},
        {"role": "user", "content": ["again: ", passage("alpha ", "d1")]},
        {"role": "user", "content": "So?"},
    ]
    session.prefill(history)
    report = session.retract("d1")
    assert report.tokens_erased == 2 * len("alpha ")
    assert report.tombstones(history)[0]["content"][0]["text"] == ""
    assert session.prefill(report.tombstones(history)).prefilled == 0
    text = session._engine.tokenizer.decode(latest_ids(session))
    assert "alpha" not in text
    assert "beta" in text


def test_a_call_without_a_result_is_named_by_its_id(session: Session) -> None:
    session.prefill([*CONVERSATION[:3], {"role": "user", "content": "x"}])
    report = session.retract("c1")
    assert [span.kind for span in report.spans if span.tokens == 0] != []
    assert '"name"' not in session._engine.tokenizer.decode(latest_ids(session))


# what cannot be


def test_an_unknown_target_is_an_error_that_says_where_it_is(session: Session) -> None:
    session.prefill(CONVERSATION)
    with pytest.raises(UnknownTargetError, match=r"has the id 'nothing'.*spans\(\)"):
        session.retract("nothing")
    other = memory_of(session).session("other-target")
    other.prefill([{"role": "user", "id": "theirs", "content": "x"}])
    with pytest.raises(UnknownTargetError, match="session 'other-target' does"):
        session.retract("theirs")
    with pytest.raises(UnknownTargetError, match="Nothing to retract"):
        session.retract()


def test_an_ambiguous_target_lists_the_span_ids(session: Session) -> None:
    session.prefill([*CONVERSATION[:4], {"role": "user", "content": "x"}, *CONVERSATION[2:4]])
    with pytest.raises(AmbiguousTargetError, match=r"'c1' names s3 \(message 3\), s6 \(message 6\)"):
        session.retract("c1")
    assert session.retract("s6").tokens_erased == len(SECRET)


def test_one_of_two_messages_that_say_the_same_is_erased(session: Session) -> None:
    ok = {"role": "user", "content": "ok"}
    session.prefill([ok, {"role": "assistant", "content": "a"}, ok])
    assert session.retract("s2").tokens_erased == 2
    assert [span.tokens for span in session.spans()] == [2, 1, 0]


def test_characters_outside_the_message_are_refused(session: Session) -> None:
    session.prefill(CONVERSATION)
    with pytest.raises(TargetError, match=r"'u1' has 17 characters; the range \[0, 99\)"):
        session.retract(CharRange(message="u1", start=0, end=99))
    with pytest.raises(TargetError, match="an end after its start"):
        CharRange(message="u1", start=3, end=3)


def test_one_wrong_target_among_several_changes_nothing(session: Session) -> None:
    session.prefill(CONVERSATION)
    before = latest_ids(session)
    with pytest.raises(UnknownTargetError):
        session.retract("c1", "nothing")
    assert latest_ids(session) == before


def test_a_conversation_longer_than_the_context_is_refused_and_the_session_stays_usable() -> None:
    memory = Memory(tiny_engine(max_positions=160))
    session = memory.session("short")
    used = session.prefill(CONVERSATION).prefilled
    with pytest.raises(ContextLengthError, match=r"needs \d+ tokens and the model reads at most 160"):
        session.chat([*CONVERSATION, {"role": "user", "content": "x" * 200}])
    assert session.prefill(CONVERSATION).reused == used
    assert in_step(session)


def test_an_empty_conversation_is_refused(session: Session) -> None:
    with pytest.raises(ConversationError, match="empty"):
        session.chat([])


@pytest.mark.parametrize("temperature", [-1.0, "hot"])
def test_wrong_sampling_is_refused_before_anything_is_read(session: Session, temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        session.chat(CONVERSATION, temperature=temperature)
    assert session.spans() == []


class _Failing(Eraser):
    name = "failing"

    def erase(self, engine: Any, seq: Any, spans: Any, approximate_from: Any = None) -> Any:
        engine.drop(seq, *spans[0])
        raise KeyboardInterrupt


def test_an_eraser_that_fails_midway_leaves_a_shorter_but_right_conversation(session: Session) -> None:
    session.prefill(CONVERSATION)
    with pytest.raises(KeyboardInterrupt):
        session.retract("c1", eraser=_Failing())
    assert in_step(session)
    session.prefill(CONVERSATION)
    assert SECRET not in session._engine.tokenizer.decode(latest_ids(session))


# generation


def test_a_cancelled_answer_is_not_remembered(session: Session) -> None:
    before = session.prefill(CONVERSATION).prefilled
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    reply = session.chat(CONVERSATION, max_tokens=50, cancelled=cancelled)
    assert (reply.finish_reason, reply.usage.generated) == ("cancelled", 3)
    assert len(latest_ids(session)) == before
    assert in_step(session)


def test_a_closed_stream_is_not_remembered(session: Session) -> None:
    before = session.prefill(CONVERSATION).prefilled
    stream = session.stream(CONVERSATION, max_tokens=50, temperature=1.0, seed=1)
    next(iter(stream))
    stream.close()
    assert len(latest_ids(session)) == before


def test_a_stream_says_what_chat_says(session: Session) -> None:
    stream = session.stream(CONVERSATION, max_tokens=8)
    text = "".join(stream)
    assert stream.reply is not None
    assert text == stream.reply.text == session.fork().chat(CONVERSATION, max_tokens=8).text


def test_a_retraction_during_an_answer_is_applied_when_it_ends(session: Session) -> None:
    stream = session.stream(CONVERSATION, max_tokens=12, temperature=1.0, seed=3)
    texts = iter(stream)
    next(texts)
    report = session.retract("c1")
    assert report.status == "queued"
    stream.finish()
    assert SECRET not in session._engine.tokenizer.decode(latest_ids(session))
    assert in_step(session)


def test_threads_take_turns(memory: Memory) -> None:
    alone = memory.session("alone").chat(CONVERSATION, max_tokens=10).text
    texts: list[str] = []
    all_said = threading.Barrier(4)  # two threads share a session: what one has retracted the other would not read

    def work(name: str) -> None:
        session = memory.session(name)
        texts.append(session.chat(CONVERSATION, max_tokens=10).text)
        all_said.wait(60)
        session.retract("c1")

    threads = [threading.Thread(target=work, args=(f"thread-{i % 2}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [alone] * 4
    assert in_step(memory.session("thread-0"))


# forks


def test_a_fork_answers_alike_and_is_apart(session: Session) -> None:
    session.prefill(CONVERSATION)
    fork = session.fork()
    assert fork.prefill(CONVERSATION).prefilled == 0
    fork.retract("c1")
    assert SECRET in session._engine.tokenizer.decode(latest_ids(session))


def test_a_fork_knows_what_was_retracted(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.retract("c1")
    fork = session.fork()
    fork.evict()
    fork.prefill(CONVERSATION)
    assert SECRET not in session._engine.tokenizer.decode(latest_ids(fork))
