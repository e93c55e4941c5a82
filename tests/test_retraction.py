"""Retracting from a conversation that is given, dry runs, taking back, and putting off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kv_memory import CharRange, Memory, Session
from kv_memory.conversation.messages import cut_text, uncut
from kv_memory.errors import AmbiguousTargetError, UnknownTargetError
from tests.test_session import CONVERSATION, SECRET, in_step
from tests.tiny import memory_of, tiny_engine

NEXT = [*CONVERSATION, {"role": "user", "content": "Well?"}]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(tiny_engine(), heal="never")


@pytest.fixture
def session(memory: Memory, request: pytest.FixtureRequest) -> Session:
    return memory.new_session(request.node.name)


def text(session: Session) -> str:
    branch = session.branches.latest
    assert branch is not None
    return session._engine.tokenizer.decode(session._engine.tokens(branch.seq))


def test_a_dry_run_says_what_would_be_erased_and_changes_nothing(session: Session) -> None:
    session.prefill(CONVERSATION)
    planned = session.retract("c1", dry_run=True)
    assert (planned.status, session.reports) == ("planned", [])
    assert session.prefill(NEXT).left_out == 0
    done = session.retract("c1")
    assert (planned.tokens_erased, planned.derived) == (done.tokens_erased, done.derived)


def test_what_was_not_read_is_not_read_later(session: Session) -> None:
    report = session.retract("c1", messages=CONVERSATION)
    assert (report.status, report.tokens_erased) == ("exact", 0)
    assert session.prefill(CONVERSATION).left_out == len(SECRET)
    assert SECRET not in text(session)


def test_a_given_conversation_is_found_without_its_system_message(session: Session) -> None:
    session.prefill(CONVERSATION)
    report = session.retract("c1", messages=CONVERSATION[1:], eraser="influence")
    assert (report.status, report.tokens_erased) == ("approximate", len(SECRET))
    assert report.spans[0].id == "s3"


def test_the_given_conversation_says_which_of_two_messages_has_the_id(session: Session) -> None:
    session.prefill(CONVERSATION)
    other = [{**CONVERSATION[0], "content": "Another agent."}, {"role": "tool", "tool_call_id": "c1", "content": "x"}]
    session.prefill([*other, CONVERSATION[1]])
    report = session.retract("c1", messages=CONVERSATION)
    assert report.tokens_erased == len(SECRET)


def test_a_range_counts_in_what_is_left_of_the_given_text(session: Session) -> None:
    session.prefill(CONVERSATION)
    first = session.retract(CharRange(message="c1", start=0, end=4))
    left = first.tombstones(CONVERSATION)
    assert left[3]["content"] == "code is 4711"
    session.retract(CharRange(message="c1", start=8, end=12), messages=left)
    assert "code is " in text(session)
    assert "4711" not in text(session)


def test_a_given_conversation_tells_ids_that_messages_got_later(session: Session) -> None:
    unnamed = [{k: v for k, v in m.items() if k != "id"} for m in CONVERSATION]
    session.prefill(unnamed)
    assert session.retract("u1", messages=CONVERSATION).tokens_erased > 0


def test_a_message_is_a_target(session: Session) -> None:
    session.prefill(CONVERSATION)
    report = session.retract(CONVERSATION[3])
    assert report.targets == ("c1",)
    assert report.tokens_erased == len(SECRET)
    with pytest.raises(UnknownTargetError, match="this user message"):
        session.retract({"role": "user", "content": "never said"})


def test_a_message_that_was_said_twice_is_ambiguous_without_its_id(session: Session) -> None:
    again = {"role": "user", "id": "u3", "content": "And now?"}
    session.prefill([*CONVERSATION, again])
    with pytest.raises(AmbiguousTargetError, match="s4, s5"):
        session.retract({"role": "user", "content": "And now?"})
    assert [span.message for span in session.retract(again).spans] == [5]


def test_a_call_is_retracted_beside_a_text_that_stays(session: Session) -> None:
    call = {"id": "c9", "function": {"name": "f", "arguments": "{}"}}
    talk = [*CONVERSATION[:2], {"role": "assistant", "content": "I look.", "tool_calls": [call]}]
    session.prefill(talk)
    report = session.retract("c9", eraser="drop")
    assert [(span.kind, span.tool_call_id) for span in report.spans] == [("tool_call", "c9")]
    assert report.status != "noop"
    assert "I look." in text(session)


def test_undo_reads_the_history_again(session: Session) -> None:
    session.prefill(CONVERSATION)
    fresh = session.score(CONVERSATION, "yes")
    report = session.retract("c1", eraser="influence")
    session.undo(report)
    assert session.prefill(CONVERSATION).prefilled > 0
    assert SECRET in text(session)
    assert in_step(session)
    torch.testing.assert_close(session.score(CONVERSATION, "yes"), fresh)


def test_undo_leaves_what_another_retraction_named(session: Session) -> None:
    session.prefill(CONVERSATION)
    first = session.retract("c1")
    session.retract("c1", "u1", eraser="recompute")
    session.undo(first)
    session.prefill(CONVERSATION)
    assert SECRET not in text(session)


def test_undo_during_an_answer_waits_for_its_end(session: Session) -> None:
    session.prefill(CONVERSATION)
    report = session.retract("c1")
    stream = session.stream(CONVERSATION, max_tokens=3)
    next(iter(stream))
    session.undo(report)
    assert SECRET not in text(session)
    stream.finish()
    session.prefill(CONVERSATION)
    assert SECRET in text(session)
    assert in_step(session)


def test_what_is_put_off_is_done_before_the_next_conversation_is_read(session: Session) -> None:
    session.prefill(CONVERSATION)
    done: list[Any] = []
    session.defer(lambda: done.append(session.retract("c1").tokens_erased))
    assert done == []
    session.prefill(NEXT)
    assert done == [len(SECRET)]
    assert SECRET not in text(session)


def test_a_placeholder_erases_what_had_its_id_and_is_text_where_nothing_had(session: Session) -> None:
    cleared = {**CONVERSATION[3], "content": "[cleared]", "placeholder": True}
    session.prefill(CONVERSATION)
    usage = session.prefill([*CONVERSATION[:3], cleared, *CONVERSATION[4:]])
    assert (usage.erased, usage.prefilled) == (len(SECRET), 0)
    assert session.prefill([*CONVERSATION[:3], cleared, *NEXT[4:]]).erased == 0
    other = memory_of(session).session("other")
    other.prefill([*CONVERSATION[:3], cleared, *CONVERSATION[4:]])
    assert "[cleared]" in text(other)


def test_without_the_mark_a_placeholder_is_other_text(session: Session) -> None:
    session.prefill(CONVERSATION)
    session.prefill([*CONVERSATION[:3], {**CONVERSATION[3], "content": "[cleared]"}, *CONVERSATION[4:]])
    assert "[cleared]" in text(session)


def test_the_eraser_for_an_edited_history_can_be_named(session: Session) -> None:
    long = {"role": "user", "content": "x" * 200}
    session.chat([*CONVERSATION, long], max_tokens=1)
    usage = session.chat([CONVERSATION[0], *CONVERSATION[4:], long], max_tokens=1, history_eraser="recompute").usage
    assert usage.erased > len(SECRET)
    branch = session.branches.latest
    assert branch is not None
    assert branch.ledger.approximate_from is None


def test_span_ids_of_two_branches_are_not_the_same(session: Session) -> None:
    session.prefill(CONVERSATION)
    first = {span.id for span in session.spans()}
    session.prefill([{"role": "user", "content": "Another conversation."}])
    assert not first & {span.id for span in session.spans()}


def test_a_mask_says_what_may_be_said(session: Session) -> None:
    (wanted,) = session._engine.tokenizer.encode("a", special=False)[0]
    heard: list[int] = []

    def only_a(said: Any, logits: torch.Tensor) -> torch.Tensor:
        heard.append(len(said))
        return torch.full_like(logits, float("-inf")).index_fill(0, torch.tensor([wanted]), 0.0)

    assert session.chat(CONVERSATION, max_tokens=4, mask=only_a).text == "aaaa"
    assert session.chat(CONVERSATION, max_tokens=4, mask=only_a, temperature=1.0, seed=1).text == "aaaa"
    assert heard == [0, 1, 2, 3] * 2


@pytest.mark.parametrize(
    ("interval", "cuts"),
    [((0, 3), []), ((0, 3), [(0, 2)]), ((1, 4), [(2, 5)]), ((2, 4), [(0, 1), (3, 5)]), ((0, 2), [(1, 4), (2, 6)])],
)
def test_characters_of_a_cut_text_are_found_in_the_whole(
    interval: tuple[int, int], cuts: list[tuple[int, int]]
) -> None:
    whole = "abcdefghij"
    start, end = uncut(interval, cuts)
    inside = [(max(a, start), min(b, end)) for a, b in cuts if a < end and b > start]
    left = cut_text(whole[start:end], [(a - start, b - start) for a, b in inside])
    assert left == cut_text(whole, cuts)[slice(*interval)]


def test_a_second_range_is_cut_from_what_the_first_left(session: Session) -> None:
    session.prefill(CONVERSATION)
    history = session.retract(CharRange(message="c1", start=0, end=4)).tombstones(CONVERSATION)
    second = session.retract(CharRange(message="c1", start=12, end=16))
    assert second.tombstones(history)[3]["content"] == "code is "
    assert second.tombstones(CONVERSATION)[3]["content"] == "the code is "
    assert session.prefill(second.tombstones(history)).prefilled == 0
    session.evict()
    session.prefill(history)
    assert "4711" not in text(session)


def test_a_range_is_widened_to_whole_tokens_in_the_history_too() -> None:
    session = Memory().session("words")
    session.prefill(CONVERSATION)
    report = session.retract(CharRange(message="c1", start=6, end=7))
    history = report.tombstones(CONVERSATION)
    assert history[3]["content"] == "the  is 4711"
    assert session.prefill(history).prefilled == 0
