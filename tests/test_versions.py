"""Retractions are records of what a message was as it was first read: any version of it may come, in any order.

"Visible" means that the decoded cells of a branch hold the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory import CharRange, Memory, RetractionReport, Session, UndoStatus
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.redactions import Redaction
from kv_memory.errors import KVMemoryError, TargetError
from kv_memory.keys import Key
from tests.lora import steering_engine
from tests.test_guarantee import decoded, visible
from tests.tiny import lent_memory

ENGINE = steering_engine()
PARTS = {"A": "Alpha one", "B": "Bravo two", "C": "Charlie three"}
TEXT = "First {A}, then {B}, last {C}.".format(**PARTS)
H: list[dict[str, Any]] = [
    {"role": "user", "id": "u", "content": "q"},
    {"role": "tool", "tool_call_id": "c1", "content": TEXT},
    {"role": "user", "content": "z"},
]


def chars(part: str) -> CharRange:
    start = TEXT.index(PARTS[part])
    return CharRange(message="c1", start=start, end=start + len(PARTS[part]))


def less(*parts: str) -> str:
    """The text of the result without these parts."""
    return "First {A}, then {B}, last {C}.".format(**{k: "" if k in parts else v for k, v in PARTS.items()})


def holding(text: str, **more: Any) -> list[dict[str, Any]]:
    """The conversation with this text as the tool's result."""
    return [H[0], {**H[1], "content": text, **more}, *H[2:]]


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield from lent_memory(ENGINE)


@pytest.fixture
def session(memory: Memory) -> Session:
    session = memory.session("s")
    session.prefill(H)
    return session


def seen(session: Session) -> str:
    """The tool's result as the branch that was used last has it."""
    branch = session.branches.latest
    assert branch is not None
    return decoded(branch)


@pytest.mark.parametrize("eraser", ["recompute", "drop", "shift+influence", "steer"])
def test_undoing_one_of_three_leaves_the_others_whatever_version_is_sent(session: Session, eraser: str) -> None:
    reports = {part: session.retract(chars(part), eraser=eraser) for part in PARTS}
    session.undo(reports["B"])
    sent = reports["C"].tombstones(reports["A"].tombstones(H))
    assert sent[1]["content"] == less("A", "C")
    assert session.prefill(sent).left_out == 0
    assert less("A", "C") in seen(session)
    assert session.prefill(H).left_out == len(PARTS["A"] + PARTS["C"])
    assert less("A", "C") in seen(session)


@pytest.mark.parametrize("order", list(permutations("AC")))
def test_a_tombstone_of_the_second_alone_does_not_show_the_first(session: Session, order: tuple[str, str]) -> None:
    _, second = (session.retract(chars(part)) for part in order)
    sent = second.tombstones(H)
    assert sent[1]["content"] == less(order[1])
    assert session.chat(sent, max_tokens=1).usage.left_out == len(PARTS[order[0]])
    assert less("A", "C") in seen(session)


def test_after_the_whole_message_was_retracted_and_undone_the_rest_can_be_read(session: Session) -> None:
    """A range retracted, tombstoned, evicted, read again, the whole retracted, undone, an older history sent."""
    first = session.retract(chars("B"))
    left = first.tombstones(H)
    session.evict()
    session.prefill(left)
    whole = session.retract("c1")
    assert not visible(session, text="First")
    assert whole.tombstones(left)[1]["content"] == ""
    session.prefill(H)
    assert not visible(session, text="First")
    session.undo(whole)
    session.prefill(H)
    assert less("B") in seen(session)


@pytest.mark.parametrize("kept", [(), ("A",), ("A", "B"), ("A", "B", "C")])
def test_a_new_process_knows_every_version(
    tmp_path: Path, kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite").session("s")
    session.prefill(H)
    reports = {part: session.retract(chars(part)) for part in PARTS}
    session.undo(reports["B"])
    stored = [RetractionReport.model_validate_json(report.model_dump_json()) for report in reports.values()]
    sent = H
    for report in stored:
        sent = report.tombstones(sent) if report.id not in {reports[part].id for part in kept} else sent
    monkeypatch.setattr("kv_memory.conversation.originals._COLLECTIONS", {})
    again = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite").session("s")
    again.prefill(sent)
    assert (less("A", "C") if "B" in kept else less("A", "B", "C")) in seen(again)


def test_reports_hold_no_digest_that_can_be_guessed(session: Session) -> None:
    pin = [{**H[1], "content": "4711"}, H[2]]
    session.prefill(pin)
    report = session.retract("c1")
    digests = {parse_messages([{**pin[0], "content": f"{n:04}"}])[0].digest() for n in range(10_000)}
    written = report.model_dump_json()
    assert not any(digest in written for digest in digests)


def test_a_report_of_another_process_says_so(session: Session) -> None:
    report = session.retract("c1")
    foreign = json.loads(report.model_dump_json())
    foreign["redactions"][0]["key"] = "0123456789abcdef"
    with pytest.raises(KVMemoryError, match="another process"):
        RetractionReport.model_validate(foreign).tombstones(H)


def test_a_new_text_under_a_retracted_id_is_a_correction_that_is_read_and_reported(session: Session) -> None:
    session.retract("c1")
    usage = session.prefill(holding("something else"))
    assert usage.corrected == ("c1",)
    assert "something else" in seen(session)
    assert session.prefill(holding("something else")).corrected == ()
    session.prefill(H)
    assert not visible(session, text=PARTS["A"])


@pytest.mark.parametrize("cleared", [{"content": ""}, {"content": "[cleared]", "placeholder": True}])
def test_what_an_editor_cleared_is_read_once_it_comes_back(session: Session, cleared: dict[str, Any]) -> None:
    session.prefill([H[0], {**H[1], **cleared}, *H[2:]])
    assert not visible(session, text=PARTS["A"])
    usage = session.prefill(H)
    assert usage.left_out == 0
    assert TEXT in seen(session)
    session.retract(chars("B"))
    session.prefill([H[0], {**H[1], **cleared}, *H[2:]])
    session.prefill(H)
    assert less("B") in seen(session)


def test_an_editor_that_clears_the_content_does_not_bring_a_retracted_call_back(memory: Memory) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": json.dumps({"q": TEXT})}}
    said = {"role": "assistant", "id": "a", "content": "look", "tool_calls": [call]}
    session = memory.session("s")
    session.prefill([H[0], said, H[2]])
    session.retract("c1")
    for content in ({"content": ""}, {"content": "[cleared]", "placeholder": True}):
        session.prefill([H[0], {**said, **content}, H[2]])
        assert not visible(session, text=PARTS["A"])
        assert not visible(session, text="look")
        session.prefill([H[0], said, H[2]])
        assert visible(session, text="look")


def test_a_call_that_a_version_lacks_is_known_by_its_id(memory: Memory) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": json.dumps({"q": TEXT})}}
    said = {"role": "assistant", "id": "a", "content": "look", "tool_calls": [call]}
    session = memory.session("s")
    session.prefill([H[0], said, H[2]])
    left = session.retract("c1").tombstones([H[0], said, H[2]])
    session.prefill(left, without=["c1"])
    assert not visible(session, text=PARTS["A"])


def test_an_equal_message_without_an_id_may_be_the_retracted_one(memory: Memory) -> None:
    """The cells of the one with another id are kept for it; too much is left out rather than too little."""
    first, second = ({"role": "user", "id": name, "content": "yes"} for name in ("m5", "m6"))
    session = memory.session("s")
    session.prefill([H[0], first, second])
    session.retract("m6")
    assert session.prefill([H[0], {"role": "user", "content": "yes"}]).left_out == len("yes")
    assert "yes" not in seen(session)


def test_what_is_cleared_but_not_retracted_is_not_left_out(session: Session) -> None:
    for content in ({"content": ""}, {"content": "[cleared]", "placeholder": True}):
        assert session.prefill([H[0], {**H[1], **content}, H[2]]).left_out == 0


def test_a_document_that_is_named_in_an_emptied_version_is_that_document(memory: Memory) -> None:
    passages = [{"type": "text", "text": f"{word} ", "document_id": word} for word in ("alpha", "beta", "gamma")]
    talk: list[dict[str, Any]] = [{"role": "user", "id": "u", "content": passages}, H[2]]
    session = memory.session("s")
    session.prefill(talk)
    whole = session.retract("u")
    session.retract("beta", messages=whole.tombstones(talk))
    session.undo(whole)
    session.prefill(talk)
    assert "alpha gamma" in seen(session)


def test_ranges_of_a_version_that_is_given_count_its_characters(session: Session) -> None:
    first = session.retract(chars("A"))
    left = first.tombstones(H)
    start = less("A").index(PARTS["C"])
    report = session.retract(CharRange(message="c1", start=start, end=start + len(PARTS["C"])), messages=left)
    assert [span.chars for span in report.spans] == [(chars("C").start, chars("C").end)]
    session.undo(first)
    session.prefill(H)
    assert less("C") in seen(session)
    with pytest.raises(TargetError, match="has 43 characters"):
        session.retract(CharRange(message="c1", start=0, end=len(less("A")) + 1), messages=left)


def test_equal_messages_without_ids_are_told_apart_after_a_tombstone(session: Session) -> None:
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "First?"},
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "Sure?"},
    ]
    session.prefill(talk)
    report = session.retract(session.spans()[1].id)
    more = [*report.tombstones(talk), {"role": "user", "content": "yes"}]
    assert session.prefill(more).left_out == 0
    assert seen(session).count("yes") == 1
    assert session.prefill([*talk, more[-1]]).left_out == len("yes")
    assert seen(session).count("yes") == 1


def test_of_two_equal_results_the_other_calls_stays(session: Session) -> None:
    talk = [H[0], {**H[1], "tool_call_id": "c0"}, H[1], H[2]]
    session.prefill(talk)
    report = session.retract("c0")
    for sent in (report.tombstones(talk), talk):
        session.prefill(sent)
        assert seen(session).count(TEXT) == 1
    session.evict()
    session.prefill([H[0], *talk[2:]])  # without the retracted one
    assert seen(session).count(TEXT) == 1


def test_of_two_equal_results_the_one_that_vanished_is_erased(session: Session) -> None:
    talk = [H[0], {**H[1], "tool_call_id": "c0"}, H[1], H[2]]
    session.prefill(talk)
    session.prefill([H[0], *talk[2:]])
    assert seen(session).count(TEXT) == 1
    assert [span.tool_call_id for span in session.spans()] == [None, "c1", None]


def test_a_document_and_a_call_come_back_in_a_version_of_their_message(memory: Memory) -> None:
    passages = [{"type": "text", "text": f"{word} ", "document_id": word} for word in ("alpha", "beta", "gamma")]
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("first", "second")]
    talk: list[dict[str, Any]] = [
        {"role": "user", "id": "u", "content": passages},
        {"role": "assistant", "id": "a", "content": "Look.", "tool_calls": calls},
        {"role": "user", "content": "z"},
    ]
    session = memory.session("s")
    session.prefill(talk)
    one = session.retract("alpha", "first")
    other = session.retract("gamma")
    sent = one.tombstones(talk)
    assert [part["text"] for part in sent[0]["content"]] == ["", "beta ", "gamma "]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["second"]
    session.evict()
    session.prefill(sent)
    assert ["alpha" in seen(session), "beta" in seen(session), "gamma" in seen(session)] == [False, True, False]
    assert ["first" in seen(session), "second" in seen(session)] == [False, True]
    session.undo(other)
    session.prefill(sent)
    assert ["alpha" in seen(session), "gamma" in seen(session)] == [False, True]
    assert session.retract("beta").tombstones(sent)[0]["content"][1]["text"] == ""


def test_rows_that_are_kept_do_not_outlive_a_stricter_retraction(session: Session) -> None:
    first = session.retract("c1", eraser="drop", keep_undo=True)
    session.retract(chars("B"), reason="privacy")
    assert session.undo(first) is not UndoStatus.RESTORED
    assert not visible(session, text=PARTS["B"])
    session.prefill(H)
    assert less("B") in seen(session)


@pytest.mark.parametrize("logged", [False, True])
def test_a_fork_keeps_what_was_retracted_before_and_owns_what_comes_after(tmp_path: Path, logged: bool) -> None:
    memory = Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite" if logged else None)
    session = memory.session("s")
    session.prefill(H)
    first = session.retract(chars("A"), eraser="drop", keep_undo=True)
    fork = session.fork()
    mine = fork.retract(chars("C"), reason="privacy")
    session.undo(first)
    session.prefill(H)
    fork.prefill(H)
    assert TEXT in seen(session)
    assert less("A", "C") in seen(fork)
    fork.undo(mine)
    fork.prefill(H)
    assert less("A") in seen(fork)


def test_two_processes_that_retract_and_undo_agree(tmp_path: Path) -> None:
    here, there = (Memory(ENGINE, heal="never", audit=tmp_path / "audit.sqlite").session("s") for _ in range(2))
    here.prefill(H)
    there.prefill(H)
    report = here.retract(chars("A"))
    there.prefill(H)
    assert less("A") in seen(there)
    there.retract(chars("C"))
    here.undo(report)
    for session in (here, there):
        session.prefill(H)
        assert less("C") in seen(session)


# versions of a text


def original(text: str, ranges: list[tuple[int, int]], steps: bool) -> Originals:
    """The originals after these ranges of a text were retracted, one after the other where `steps`, else at once."""
    originals = Originals(Key(b"k" * 16))
    (message,) = originals.identify(parse_messages([{**H[1], "content": text}]))
    redactions = [
        Redaction(
            role="tool",
            message_id=None,
            tool_call_id="c1",
            digest=message.digest(),
            occurrence=0,
            chars=(interval,),
            calls=frozenset(),
        )
        for interval in ranges
    ]
    gone = message.missing
    if not steps:
        originals.learn(originals.fingerprinted([(redaction, message, gone) for redaction in redactions]))
    for redaction in redactions if steps else ():
        originals.learn(originals.fingerprinted([(redaction, message.overwritten(gone), gone)]))
        gone |= redaction.cuts
    return originals


@st.composite
def retracted_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]], list[int], bool]:
    """A text, ranges of it, the numbers of those that a version lacks, and whether they came one after the other."""
    text = draw(st.text("abc ", min_size=1, max_size=30))
    ends = st.tuples(st.integers(0, len(text) - 1), st.integers(1, len(text)))
    ranges = draw(st.lists(ends.map(lambda e: (min(e), max(e)) if e[0] != e[1] else (e[0], e[0] + 1)), max_size=5))
    lacking = draw(st.lists(st.sampled_from(range(len(ranges))), unique=True)) if ranges else []
    return text, ranges, lacking, draw(st.booleans())


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(retracted_texts())
def test_any_version_is_put_into_the_coordinates_of_its_original(
    drawn: tuple[str, list[tuple[int, int]], list[int], bool],
) -> None:
    text, ranges, lacking, steps = drawn
    absent = {i for number in lacking for i in range(*ranges[number])}
    version = "".join(c for i, c in enumerate(text) if i not in absent)
    (found,) = original(text, ranges, steps).identify(parse_messages([{**H[1], "content": version}]))
    assert len(found.content) == len(text)
    assert found.content.replace("\0", "") == version
    retracted = {i for interval in ranges for i in range(*interval)}
    assert all(c in ("\0", text[i]) for i, c in enumerate(found.content) if i not in retracted)


def test_where_parts_may_be_mistaken_for_each_other_all_of_them_are_left_out(session: Session) -> None:
    """The second range splits the first after its text was gone, so that nobody knows the text of the halves."""
    start, end = chars("B").start, chars("B").end
    first = session.retract(CharRange(message="c1", start=start, end=end))
    second = session.retract(CharRange(message="c1", start=start + 6, end=end + 6))
    left = holding(TEXT[: start + 6] + TEXT[end + 6 :])  # a tombstone of the second alone
    (found,) = session.state.identify(parse_messages(left[1:2]))
    assert found.guessed.chars == ((start, start + 6),)
    session.undo(first)
    session.prefill(left)
    assert not visible(session, text="Bravo")  # the second is in force, and what is left of it may be its text
    session.undo(second)
    session.prefill(left)
    assert TEXT[: start + 6] + TEXT[end + 6 :] in seen(session)


def test_another_message_of_the_length_of_a_lost_part_is_no_version(memory: Memory) -> None:
    other = {"role": "user", "content": "short1"}
    talk = [other, {"role": "user", "id": "m7", "content": "seven7long88"}]
    session = memory.session("s")
    session.prefill(talk, without=["m7"])
    session.retract(CharRange(message="m7", start=0, end=6))
    session.prefill([*talk, H[2]])
    assert "short1" in seen(session)
    session.retract(other, messages=talk)
    assert not visible(session, text="short1")


@pytest.mark.parametrize("text", ["Fist , then , last .", "First , then , last", "First Alpha two, then , last .", "x"])
def test_a_text_that_nobody_handed_out_is_no_version(text: str) -> None:
    ranges = [(chars(part).start, chars(part).end) for part in PARTS]
    (found,) = original(TEXT, ranges, True).identify(parse_messages([{**H[1], "content": text}]))
    assert (found.content, bool(found.missing)) == (text, False)


def test_all_versions_of_a_text_with_40_ranges_are_found_fast() -> None:
    text = "".join(f"{i:04}-{'x' * (i % 7)}." for i in range(400))
    ranges = [(i * 80, i * 80 + 20 + i) for i in range(40)]
    originals = original(text, ranges, True)
    for lacking in [*combinations(range(40), 1), tuple(range(40)), tuple(range(0, 40, 2))]:
        absent = {i for number in lacking for i in range(*ranges[number])}
        version = "".join(c for i, c in enumerate(text) if i not in absent)
        (found,) = originals.identify(parse_messages([{**H[1], "content": version}]))
        assert {i for i, c in enumerate(found.content) if c == "\0"} == absent
