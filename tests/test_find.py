"""What a target means is found without changing anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory import CharRange, Memory, Session, SpanKind, SpanStatus, TargetError, UnknownTargetError
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.targets import find, names
from tests.tiny import tiny_engine

TALK: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": [{"type": "text", "text": "One. ", "document_id": "d1"}, "Two."]},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "the code is 4711"},
    {"role": "user", "id": "u2", "content": [{"type": "text", "text": "One. ", "document_id": "d1"}, "Why?"]},
]
MEMORY = Memory(tiny_engine(), heal="never")


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    session = MEMORY.new_session(request.node.name)
    session.prefill(TALK)
    return session


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("c1", [(SpanKind.TOOL_RESULT, 2, 16)]),
        ("u1", [(SpanKind.USER, 0, 9)]),
        ("d1", [(SpanKind.DOCUMENT, 0, 5), (SpanKind.DOCUMENT, 3, 5)]),
        (TALK[2], [(SpanKind.TOOL_RESULT, 2, 16)]),
    ],
    ids=["call", "message", "document", "message itself"],
)
def test_each_kind_of_target(session: Session, target: Any, found: list[tuple[SpanKind, int, int]]) -> None:
    before = session.spans()
    assert [(span.kind, span.message, span.tokens) for span in session.find(target)] == found
    assert session.spans() == before
    assert session.reports == []


def test_what_was_erased_is_found_as_erased(session: Session) -> None:
    session.retract("c1", eraser="recompute")
    assert [(span.status, span.tokens) for span in session.find("c1")] == [(SpanStatus.EXACT, 0)]


def test_what_was_not_read_yet_is_found_in_the_conversation_that_is_given(session: Session) -> None:
    more = [*TALK, {"role": "user", "id": "u3", "content": "And now?"}]
    with pytest.raises(UnknownTargetError, match="'u3'"):
        session.find("u3")
    (span,) = session.find("u3", more)
    assert (span.kind, span.message_id, span.start, span.end, span.tokens) == (SpanKind.USER, "u3", 0, 0, 0)
    assert session.find("c1", more) == session.find("c1")


@pytest.mark.parametrize("how", ["undone", "evicted"])
def test_what_is_no_longer_in_the_cache_is_found_without_tokens(session: Session, how: str) -> None:
    if how == "undone":
        session.undo(session.retract("u1"))
    else:
        session.evict()
    (span,) = session.find("u2")
    assert (span.id, span.message_id, span.start, span.end, span.tokens) == ("s3", "u2", 0, 0, 0)


@pytest.mark.parametrize("target", ["c2", "d2"])
def test_calls_and_documents_are_found_that_a_shorter_history_cut_off(session: Session, target: str) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c2", "function": {"name": "f", "arguments": "{}"}}],
    }
    parts = {"role": "user", "content": [{"type": "text", "text": "Two.", "document_id": "d2"}, "Three."]}
    session.prefill([*TALK, call if target == "c2" else parts])
    session.prefill(TALK)
    (span,) = session.find(target)
    assert (span.tokens, target in (span.tool_call_id, span.document_id)) == (0, True)


def test_a_call_is_meant_where_another_conversation_has_a_result_of_that_id(session: Session) -> None:
    session.prefill([{"role": "user", "content": "Another."}, TALK[1]])
    assert {span.kind for span in session.find("c1")} == {SpanKind.TOOL_CALL, SpanKind.TOOL_RESULT}


def test_a_call_is_not_meant_where_its_conversation_goes_on_to_the_result(session: Session) -> None:
    stream = session.stream(TALK[:2], max_tokens=8)  # in a branch that ends with the call
    next(iter(stream))
    assert {span.kind for span in session.find("c1")} == {SpanKind.TOOL_RESULT}
    stream.close()


def test_what_was_cut_off_for_want_of_room_is_found(session: Session) -> None:
    engine = tiny_engine()
    memory = Memory(engine, cache_tokens=Memory(engine).count_tokens(TALK, answer=False) + 10, heal="never")
    session = memory.session("s")
    session.prefill(TALK)
    session.prefill([TALK[0], {"role": "user", "id": "u3", "content": "And?"}])
    assert [span.tool_call_id for span in session.find("c1")] == ["c1"]


def test_characters_outside_the_message_are_an_error(session: Session) -> None:
    with pytest.raises(TargetError, match="outside"):
        session.find(CharRange(message="u2", start=3, end=99))


IDS = st.sampled_from(["a", "b", "s0", "s1.call0", "s2.doc0", None])


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages whose ids may be those of others, of calls, of documents, or look like those of spans."""

    def message() -> dict[str, Any]:
        role = draw(st.sampled_from(["user", "assistant", "tool"]))
        parts = [{"type": "text", "text": "x", "document_id": draw(IDS)} for _ in range(draw(st.integers(1, 2)))]
        said: dict[str, Any] = {"role": role, "content": parts, "id": draw(IDS)}
        if role == "assistant":
            said["tool_calls"] = [{"id": draw(IDS), "name": "f"} for _ in range(draw(st.integers(0, 2)))]
        return {**said, "tool_call_id": draw(IDS)} if role == "tool" else said

    return [message() for _ in range(draw(st.integers(1, 4)))]


@given(_conversations())
def test_the_names_of_a_span_are_those_by_which_it_is_found(messages: list[dict[str, Any]]) -> None:
    ledger = Ledger()
    for message in parse_messages(messages):
        ledger.append(message, [], 0)
    listed: dict[str, set[str]] = {}
    for span, ids in names(ledger):
        for name in ids:
            listed.setdefault(name, set()).add(span.id)
    candidates = {"a", "b", "s1.call0", "s2.doc0", *(span.id for span in ledger.spans())}
    for name in candidates:
        try:
            found = {selection.span_id for selection in find(ledger, name)}
        except TargetError:
            found = set()
        assert found == listed.get(name, set())
