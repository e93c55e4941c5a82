"""Messages that are empty, were cleared by an editor of the history, lack content, or share an id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kv_memory import AmbiguousTargetError, CharRange, ConversationError, Memory, RetractionStatus, Session
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.tiny import STRICT, lent_memory, tiny_engine

ENGINE = tiny_engine()
H: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": "Hello there"},
    {"role": "tool", "tool_call_id": "c1", "content": "the code is 4711"},
    {"role": "user", "id": "u2", "content": "Why?"},
]
CLEARED: dict[str, dict[str, Any]] = {
    "empty": {"content": ""},
    "placeholder": {"content": "[gone]", "placeholder": True},
}
NOTE = "Only an empty text or a placeholder was read as 'c1'"


@pytest.fixture
def session() -> Iterator[Session]:
    for memory in lent_memory(ENGINE):
        yield memory.session("s")


def cleared(how: str) -> list[dict[str, Any]]:
    return [H[0], {**H[1], **CLEARED[how]}, H[2]]


def reads(session: Session, history: list[dict[str, Any]]) -> int:
    """The number of tokens of the result in the cache, after the session has read this history."""
    session.prefill(history)
    return session.find("c1", history)[0].tokens


@pytest.mark.parametrize(("how", "status"), [("empty", "noop"), ("placeholder", "exact")])
def test_of_a_message_that_was_only_read_cleared_the_text_is_not_retracted(
    session: Session, how: str, status: str
) -> None:
    session.prefill(cleared(how))
    assert NOTE in session.explain("c1")
    assert NOTE in session.retract("c1", dry_run=True).explanation
    report = session.retract("c1")
    assert report.status == status
    assert [(span.id, span.tokens) for span in report.spans] == [("s1", 0)]
    assert report.explanation.splitlines()[-1].startswith(NOTE)
    assert session.prefill(H).corrected == ("c1",)
    assert reads(session, H) == len(H[1]["content"])
    assert NOTE not in session.retract("c1").explanation
    assert reads(session, H) == 0


@pytest.mark.parametrize("how", CLEARED)
def test_a_message_that_was_cleared_after_it_was_read_is_retracted(session: Session, how: str) -> None:
    session.prefill(H)
    session.prefill(cleared(how))
    report = session.retract("c1")
    assert (report.status, report.tokens_erased) == ("exact", 0)
    assert NOTE not in report.explanation
    assert session.prefill(H).left_out == len(H[1]["content"])
    assert reads(session, H) == 0


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("how", CLEARED)
def test_a_message_that_was_read_is_retracted_by_the_history_in_which_it_was_cleared(
    session: Session, how: str, undone: bool
) -> None:
    if undone:  # the cleared message may be what is left of this text too
        session.prefill([H[0], {**H[1], "content": "the code is unknown"}, H[2]])
        session.undo(session.retract("c1"))
    session.prefill(H)
    report = session.retract("c1", messages=cleared(how))
    assert report.status == "exact"
    assert NOTE not in report.explanation
    assert session.prefill(H).left_out == len(H[1]["content"])
    assert reads(session, H) == 0


@pytest.mark.parametrize("how", CLEARED)
def test_the_text_beside_calls_is_retracted_by_the_history_in_which_it_was_cleared(session: Session, how: str) -> None:
    call = {"id": "c1", "function": {"name": "look", "arguments": "{}"}}
    said = {"role": "assistant", "id": "a1", "content": "The code is 4711.", "tool_calls": [call]}
    session.prefill([H[0], said, *H[1:]])
    session.retract("a1", messages=[H[0], {**said, **CLEARED[how]}, *H[1:]])
    assert session.prefill([H[0], said, *H[1:]]).left_out >= len(said["content"])


@pytest.mark.parametrize("how", CLEARED)
def test_a_cleared_message_is_no_correction_where_another_text_was_under_its_id_before(
    session: Session, how: str
) -> None:
    """It may be what is left of either text, also of the one whose retraction was undone."""
    earlier = [H[0], {**H[1], "content": "the code is unknown"}, H[2]]
    session.prefill(earlier)
    session.undo(session.retract("c1"))
    session.prefill(H)
    session.retract("c1", messages=H)
    assert session.prefill(cleared(how)).corrected == ()
    assert session.prefill(earlier).corrected == ("c1",)


@pytest.mark.parametrize("how", CLEARED)
def test_a_cleared_message_is_retracted_by_the_history_that_holds_its_text(session: Session, how: str) -> None:
    session.prefill(cleared(how))
    report = session.retract("c1", messages=H)
    assert report.status == "exact"
    assert NOTE not in report.explanation
    assert reads(session, H) == 0


def test_an_empty_message_without_an_id_has_nothing_to_retract(session: Session) -> None:
    session.prefill([H[0], {"role": "assistant", "content": ""}, H[2]])
    report = session.retract("s1")
    assert report.status is RetractionStatus.NOOP
    assert report.explanation == "Nothing of it is in the cache, so there is nothing to erase."


def test_what_the_template_has_left_out_is_in_force() -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(STRICT), name="strict")
    session = Memory(engine, heal="never").session("s")
    session.prefill([{"role": "user", "id": "u1", "content": "   Hello"}])  # its template trims contents
    report = session.retract(CharRange(message="u1", start=0, end=3))
    assert (report.status, report.tokens_erased, len(report.redactions)) == ("exact", 0, 1)


def test_retracting_again_what_is_in_force_is_not_nothing(session: Session) -> None:
    session.prefill(H)
    assert [session.retract("c1").status for _ in range(2)] == ["exact", "exact"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "tool", "tool_call_id": "c1", "content": None},
        {"role": "assistant", "content": []},
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "c1", "placeholder": True},
    ],
    ids=str,
)
def test_a_message_may_be_empty(session: Session, message: dict[str, Any]) -> None:
    session.prefill([H[0], message, H[2]])
    assert [span.id for span in session.spans() if "." not in span.id] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_message_without_content_is_refused(session: Session, role: str) -> None:
    with pytest.raises(ConversationError, match=f'^Message 1 \\({role}\\) has no content; give it as "content"'):
        session.prefill([H[0], {"role": role, "text": "in another field"}])
    assert session.spans() == []


@pytest.mark.parametrize("texts", [("a", "b"), ("a", "a")], ids=["other text", "the same message twice"])
def test_equal_ids_in_one_history_are_read_and_not_guessed_at(session: Session, texts: tuple[str, str]) -> None:
    history = [{"role": "user", "id": "x", "content": text} for text in texts]
    session.prefill(history)
    with pytest.raises(AmbiguousTargetError, match=r"'x' names s0 \(message 0\), s1 \(message 1\); use one"):
        session.retract("x")
    session.retract("s1")
    assert [span.tokens for span in session.spans()] == [1, 0]
    session.evict()
    session.prefill(history)
    assert [span.tokens for span in session.spans()] == [1, 0]
