"""Span ids: stable through re-reading, one message's in a session and its forks, known before a message is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory import CharRange, Session, SpanStatus, UnknownTargetError
from kv_memory.conversation.messages import Message, ToolCall
from tests.lora import steering_engine
from tests.tiny import lent_memory, memory_of

ENGINE = steering_engine()
H: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": "Hello there"},
    {"role": "tool", "tool_call_id": "c1", "content": "the code is 4711"},
    {"role": "user", "id": "u2", "content": "Why?"},
]


@pytest.fixture
def session() -> Iterator[Session]:
    for memory in lent_memory(ENGINE):
        yield memory.session("s")


def ids(session: Session) -> list[str]:
    return [span.id for span in session.spans()]


def test_a_message_that_is_read_again_has_its_id_again(session: Session) -> None:
    session.prefill(H)
    session.evict()
    session.prefill(H)
    assert ids(session) == ["s0", "s1", "s2"]
    session.prefill([H[0], H[2]])  # the result has vanished, and comes back
    assert ids(session) == ["s0", "s2"]
    session.prefill(H)
    assert ids(session) == ["s0", "s1", "s2"]
    session.undo(session.retract("u1"))
    session.prefill(H)
    assert ids(session) == ["s0", "s1", "s2"]


def test_a_tombstone_has_the_id_of_its_message(session: Session) -> None:
    session.prefill(H)
    left = session.retract(CharRange(message="c1", start=12, end=16)).tombstones(H)
    session.evict()
    session.prefill(left)
    assert ids(session) == ["s0", "s1", "s1.range12-16", "s2"]


def test_another_text_has_another_id_in_forks_too(session: Session) -> None:
    session.prefill(H)
    with session.fork("other") as other:
        other.prefill([*H[:2], {"role": "user", "content": "How?"}])
        session.prefill([*H[:2], {"role": "user", "content": "Who?"}])
        assert ids(other) == ["s0", "s1", "s3"]
        assert ids(session) == ["s0", "s1", "s4"]
        other.prefill(H)
        assert ids(other) == ["s0", "s1", "s2"]


def test_an_id_names_the_message_of_the_conversation_that_was_read_last(session: Session) -> None:
    """Two conversations have the same text there, each under an id of its own, and one of them was retracted."""
    first, second = ([H[0], {"role": "user", "id": name, "content": "yes"}] for name in ("m1", "m2"))
    session.prefill(first)
    session.prefill(second)
    session.retract("m1", messages=first)
    session.prefill(first)
    assert [span.message_id for span in session.find("s1")] == ["m1"]
    assert {redaction.message_id for redaction in session.retract("s1").redactions} == {"m1"}
    assert session.prefill(second).left_out == 0


CALL = {"function": {"name": "look", "arguments": {"at": "it"}}}
DOCUMENT = {"type": "text", "text": "the code is 4711"}
RESULT = {"role": "tool", "content": "none"}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"role": "user", "content": "yes"}, {"role": "user", "content": "yes", "id": "new"}),
        (RESULT, {**RESULT, "tool_call_id": "new"}),
        *(
            (
                {"role": "assistant", "content": "", "tool_calls": [{**CALL, **name}]},
                {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "new"}]},
            )
            for name in ({}, {"id": "old"})
        ),
        *(
            (
                {"role": "user", "content": [{**DOCUMENT, **name}]},
                {"role": "user", "content": [{**DOCUMENT, "document_id": "new"}]},
            )
            for name in ({}, {"document_id": "old"})
        ),
    ],
)
def test_a_cached_message_is_found_by_the_ids_that_its_history_has_now(
    session: Session, before: dict[str, Any], now: dict[str, Any]
) -> None:
    session.prefill([H[0], before])
    assert session.prefill([H[0], now]).prefilled == 0
    assert [span.message for span in session.find("new")] == [1]
    assert session.prefill([H[0], before]).prefilled == 0
    known = "old" if "old" in str(before) else "new"  # an id that the history lacks is kept
    assert [span.message for span in session.find(known)] == [1]


def test_a_cleared_message_has_the_documents_and_calls_that_it_had(session: Session) -> None:
    said = {"role": "user", "id": "u", "content": "the code is 4711"}
    session.prefill([H[0], said])
    session.prefill([H[0], {**said, "content": [{**DOCUMENT, "text": "", "document_id": "new"}]}])
    assert ids(session) == ["s0", "s1"]
    called, cleared = (
        Message("assistant", "", (ToolCall("c", "look", {}),)),
        Message("assistant", "-", placeholder=True),
    )
    assert called.with_ids_of(cleared) is called


def test_documents_that_are_divided_anew_keep_the_ids_of_their_spans(session: Session) -> None:
    parts = [{"type": "text", "text": text, "document_id": text} for text in ("one", "two")]
    session.prefill([{"role": "user", "content": parts}])
    session.prefill([{"role": "user", "content": [{"type": "text", "text": "onetwo", "document_id": "both"}]}])
    assert [(span.chars, span.document_id) for span in session.find("s0.doc0")] == [((0, 3), "one")]


def test_equal_messages_of_one_conversation_have_ids_of_their_own(session: Session) -> None:
    ok = {"role": "user", "content": "ok"}
    session.prefill([ok, ok, ok])
    session.evict()
    session.prefill([ok, ok, ok])
    assert ids(session) == ["s0", "s1", "s2"]


TEXTS = st.sampled_from(["a", "b", "yes"])
HISTORIES = st.lists(TEXTS, min_size=1, max_size=4)
KINDS = st.sampled_from(["read", "name", "evict", "retract", "undo", "fork"])
STEPS = st.lists(st.tuples(KINDS, HISTORIES), max_size=8)


@given(STEPS)
@settings(max_examples=40)
def test_an_id_never_means_another_text(steps: list[tuple[str, list[str]]]) -> None:
    for memory in lent_memory(ENGINE):
        sessions, meant = [memory.session("s")], dict[str, str]()
        for step, texts in steps:
            history = [{"role": "user", "content": text} for text in texts]
            session = sessions[-1]
            if step == "read":
                session.prefill(history)
                named = [span.id for span in session.spans() if "." not in span.id]
                assert len(set(named)) == len(named)
                assert all(meant.setdefault(name, text) == text for name, text in zip(named, texts, strict=True))
            elif step == "name":
                given_here = session.state.given(history)
                assert given_here is not None
                named = [entry.span_id for entry in given_here.entries]
                assert all(meant.setdefault(name, text) == text for name, text in zip(named, texts, strict=True))
            elif step == "evict":
                session.evict()
            elif step == "fork":
                sessions.append(session.fork())
            elif step == "retract" and session.spans():
                session.retract(session.spans()[0].id)
            elif step == "undo" and session.reports:
                session.undo(session.reports[-1])


def test_two_ranges_of_one_retraction_have_ids_of_their_own(session: Session) -> None:
    session.prefill(H)
    first, second = CharRange(message="c1", start=0, end=3), CharRange(message="c1", start=6, end=8)
    named = [span.id for target in (first, second) for span in session.find(target)]
    report = session.retract(first, second)
    assert named == [span.id for span in report.spans] == ["s1.range0-3", "s1.range6-8"]
    for span, chars in zip(report.spans, [(0, 3), (6, 8)], strict=True):
        assert (span.chars, span.tokens, span.status) == (chars, 0, SpanStatus.EXACT)
        assert session.find(span.id) == [span]
    session.evict()
    session.prefill(H)
    assert ids(session) == ["s0", "s1", "s1.range0-3", "s1.range6-8", "s2"]


def test_the_id_of_a_range_names_it_before_it_is_erased(session: Session) -> None:
    session.prefill(H)
    (span,) = session.find(CharRange(message="c1", start=4, end=8))
    assert (span.id, span.tokens, span.status) == ("s1.range4-8", 4, SpanStatus.LIVE)
    assert session.find("s1.range4-8") == [span]
    assert session.retract("s1.range4-8").spans[0].chars == (4, 8)
    for outside in ("s1.range4-99", "s1.range8-4", "s1.range04-8", "s9.range0-1"):
        with pytest.raises(UnknownTargetError, match=outside):
            session.find(outside)


def test_a_range_inside_what_is_erased_is_reported_as_erased(session: Session) -> None:
    session.prefill(H)
    session.retract(CharRange(message="c1", start=0, end=10), eraser="drop")
    report = session.retract(CharRange(message="c1", start=2, end=5), eraser="drop")
    assert [(span.id, span.tokens) for span in report.spans] == [("s1.range2-5", 0)]
    assert {report.status, report.spans[0].status} == {"approximate"}


def test_a_message_that_was_not_read_yet_is_named_by_the_id_that_it_will_have(session: Session) -> None:
    session.prefill(H[:1])
    assert [span.id for span in session.find("c1", H)] == ["s1"]
    report = session.retract("s1", CharRange(message="s2", start=0, end=3), messages=H)
    assert [span.id for span in report.spans] == ["s1", "s2.range0-3"]
    session.prefill(H)
    assert [span.id for span in session.spans() if span.tokens == 0] == ["s1", "s2.range0-3"]


def test_a_span_id_is_not_looked_for_in_other_sessions(session: Session) -> None:
    memory_of(session).session("longer").prefill(H)
    session.prefill(H[:1])
    with pytest.raises(UnknownTargetError, match=r"^Nothing in session 's' has the id 's2'; spans\(\) lists the ids"):
        session.retract("s2")


def test_rows_that_are_kept_are_those_of_one_reading_of_a_message(session: Session) -> None:
    session.prefill(H)
    report = session.retract("c1", eraser="drop", keep_undo=True)
    session.prefill(H[:2])  # the question is gone
    session.prefill(H)  # and read again, without the result in view
    assert session.undo(report) == "restored"
    (branch,) = (branch for branch in session.branches if branch.resident)
    assert branch.ledger.approximate_from == branch.ledger.entries[2].start
