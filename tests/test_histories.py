"""Whatever happened to a session, its caches hold what they should: random histories, and what they have found."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv_memory import CharRange, Memory, RetractionStatus, Session, SpanKind
from kv_memory.conversation import originals
from kv_memory.engines.transformers.forward import Forward, PassCache
from kv_memory.sessions import dependence
from tests.histories.checks import check_cells, check_influence, messages_of
from tests.histories.machine import Histories
from tests.histories.oracle import Record, place_of
from tests.histories.running import run
from tests.histories.world import Known, World
from tests.test_guarantee import ENGINE, SECRET, H, begun, decoded, visible

NUMBER = int(os.environ.get("KV_MEMORY_HISTORIES", "300"))
"""Histories to read; `make nightly` reads 20,000 others."""


@pytest.mark.timeout(1200)
def test_no_history_shows_what_is_retracted_or_hides_what_is_not() -> None:
    run(NUMBER)


@pytest.mark.parametrize("given", [False, True])
def test_the_oracle_takes_equal_turns_that_a_cascade_took_along_for_other_messages_than_the_one_that_was_named(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependence, "DEPENDS", float("-inf"))  # all later turns depend
    machine = Histories()
    world = machine.world = World("never", None, audited=False)
    talk = [world.new("assistant", [("yes", None)], id=name) for name in (None, "m", None)]
    known = world.known["s"] = Known("s", [talk])
    machine.read(known, talk)
    named = ("m", talk[1].said, talk[1].said.whole, talk if given else known.latest)
    machine.erase(known, named, cascade="retract", messages=messages_of(talk) if given else None)
    machine.read(known, talk)
    hidden = world.hidden(known, talk)
    machine.teardown()
    assert [bool(parts.must) for parts in hidden] == [False, True, not given]
    assert hidden[2].may == talk[2].said.whole


def test_the_checks_pass_a_conversation_of_an_empty_answer_of_which_no_cells_are_made(session: Session) -> None:
    session.prefill([{"role": "assistant", "id": "a", "content": ""}, H[2]])
    session.undo(session.retract({"role": "user", "content": "z"}))
    (branch, *_) = session.branches
    assert (len(branch.ledger), branch.cells) == (1, 0)
    check_influence(branch)


@pytest.mark.parametrize("told", [False, True])
def test_the_oracle_takes_of_equal_turns_the_one_that_was_written_again_out_of_force(told: bool) -> None:
    world = World("never", None, audited=False)
    talk = [world.new("assistant", [("yes", None)]) for _ in range(3)]
    said, known = talk[0].said, Known("s", [talk])
    places = [place_of(talk, number) if told else None for number in (1, 2)]
    world.enforce(known, "r", [Record(said.text, said.ids, said.whole, place) for place in places])
    world.withdraw(known, "r", talk, 1)
    hidden = world.hidden(known, talk)
    world.end()
    assert [bool(parts.must) for parts in hidden] == [False, False, told]
    assert hidden[2].may == said.whole


# What histories have found


@pytest.fixture
def session() -> Iterator[Session]:
    memory = Memory(ENGINE, heal="never")
    yield memory.session("s")
    memory.delete_session("s")


def test_an_answer_that_the_garbage_collector_finds_in_the_middle_of_a_call_ends_after_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    gc.disable()  # so that it is found below
    lost: list[Any] = [*begun(session)]
    lost.append(lost)
    del lost
    session.prefill([*H[:2], {"role": "user", "content": "another"}])
    over = Forward.over

    def collected(self: Forward, cache: PassCache, *given: Any, **more: Any) -> Any:
        gc.collect()
        return over(self, cache, *given, **more)

    monkeypatch.setattr(Forward, "over", collected)
    session.retract("c1", eraser="recompute")
    gc.enable()
    check_cells(session, [SECRET])
    session.chat(H, max_tokens=2)
    assert not visible(session)
    assert not any(branch.busy for branch in session.branches)


def test_a_retraction_that_waits_is_made_when_another_ends_the_answer(session: Session) -> None:
    begun_ = begun(session)
    first = session.retract("u")
    assert first.status is RetractionStatus.QUEUED
    session.retract("c1", reason="security")
    assert session.report(first.id).status is RetractionStatus.EXACT
    assert not visible(session, text="q<")
    del begun_


def test_the_text_of_a_message_with_calls_is_erased_by_its_range(session: Session) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    session.prefill([H[0], {"role": "assistant", "id": "a", "content": SECRET, "tool_calls": [call]}])
    report = session.retract(CharRange(message="a", start=0, end=len(SECRET)))
    assert report.status is not RetractionStatus.NOOP
    assert [span.kind for span in report.spans] == [SpanKind.RANGE]
    assert not visible(session)


def test_what_is_left_out_is_erased_from_other_branches_too(session: Session) -> None:
    session.prefill(H)
    session.prefill([*H[:2], {"role": "user", "content": "another"}])
    session.prefill(H[:2], without=["c1"])
    assert not visible(session)


def test_a_message_is_found_by_its_text_beside_an_empty_one_that_may_be_its_tombstone(session: Session) -> None:
    talk = [H[0], {"role": "assistant", "content": "one"}, {"role": "assistant", "id": "a", "content": ""}, H[2]]
    session.prefill(talk)
    session.retract(talk[1])
    assert [span.message for span in session.retract(talk[1], messages=talk).spans] == [1]


def test_a_range_over_several_documents_that_is_erased_approximately_is_not_said_to_be_exact(session: Session) -> None:
    parts = [{"type": "text", "text": "words " * 3, "document_id": f"d{n}"} for n in range(4)]
    session.prefill([H[0], {"role": "user", "id": "m", "content": parts}])
    report = session.retract(CharRange(message="m", start=6, end=72), eraser="shift")
    assert session.state.approximate
    assert report.status is RetractionStatus.APPROXIMATE


def test_a_result_that_is_followed_by_another_one_is_read_again_from_every_branch(session: Session) -> None:
    """The template closes a group of tool results once: the first branch ends after one, the second after two."""
    talk = [H[0], *({"role": "tool", "tool_call_id": f"c{n}", "content": f"result {n}"} for n in range(3)), H[2]]
    for end in (2, 3, 4, 5):
        session.prefill(talk[:end])
    fresh = Memory(ENGINE, heal="never").session("fresh")
    fresh.prefill(talk)
    latest = [max(s.branches, key=lambda branch: branch.used) for s in (session, fresh)]
    assert decoded(latest[0]) == decoded(latest[1])


def test_what_is_left_out_while_an_answer_is_generated_is_erased_once_it_is_interrupted(session: Session) -> None:
    answer = begun(session)
    session.prefill(H, without=["c1"])
    session.retract("u", reason="security")
    assert not visible(session)
    del answer


def test_of_two_equal_messages_the_other_one_stays_where_a_conversation_parts_between_them(session: Session) -> None:
    yes = {"role": "user", "content": "yes"}
    session.prefill([yes, {"role": "assistant", "content": "one"}, yes])
    session.retract(session.spans()[2].id)
    session.prefill([yes, {"role": "assistant", "content": "two"}, yes, {"role": "user", "content": "go on"}])
    latest = max(session.branches, key=lambda branch: branch.used)
    assert decoded(latest).count("yes") == 1
    assert [bool(entry.cuts) for entry in latest.ledger.entries] == [False, False, True, False]


def test_a_text_that_was_read_as_it_is_is_not_guessed_to_be_what_is_left_of_another(session: Session) -> None:
    """A range of what was gone already splits it into parts of which nobody knows the text any more."""
    one, other = ([{"role": "user", "id": "m", "content": text}, H[2]] for text in ("0123456789abcdef", "right"))
    session.prefill(one)
    session.prefill(other)
    session.prefill(one)
    name = session.spans()[0].id
    session.retract(name)
    session.retract(CharRange(message=name, start=11, end=16))
    assert session.prefill(other).left_out == 0
    assert visible(session, text="right")


def test_a_text_that_was_retracted_as_it_is_is_not_guessed_by_a_report_to_be_what_is_left_of_another(
    session: Session,
) -> None:
    one, other = ([{"role": "user", "id": "m", "content": text}] for text in ("0123456789abcdef", "right"))
    session.prefill(other)
    session.retract("m")
    session.prefill(one)
    name = session.spans()[0].id
    session.retract(name)
    report = session.retract(CharRange(message=name, start=11, end=16))
    assert report.tombstones(other) == other


def test_a_fork_lacks_what_another_process_has_retracted_just_before(tmp_path: Path) -> None:
    here, there = (Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never").session("s") for _ in range(2))
    here.prefill(H)
    there.prefill(H)
    there.retract("c1", reason="security")
    with here.fork() as fork:
        assert not visible(fork)
        fork.prefill(H)
        assert not visible(fork)
    for session in (here, there):
        session.evict()


def test_an_empty_answer_is_not_taken_for_a_call_that_was_retracted_elsewhere(session: Session) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    talk = [H[0], {"role": "assistant", "content": "", "tool_calls": [call]}, H[2]]
    session.prefill(talk)
    report = session.retract("c")
    session.prefill([*talk, {"role": "assistant", "content": ""}, {"role": "user", "content": "go on"}])
    latest = session.branches.latest
    assert latest is not None and not latest.ledger.entries[3].message.tool_calls
    assert session.prefill(report.tombstones(talk)).prefilled == 0  # here it is the call, after the same message


def test_of_equal_messages_of_which_one_has_an_id_the_right_one_is_erased(session: Session) -> None:
    yes = {"role": "user", "content": "yes"}
    session.prefill([yes, yes | {"id": "m"}, yes, H[2]])
    session.retract(session.spans()[2].id)
    latest = session.branches.latest
    assert latest is not None and [bool(entry.cuts) for entry in latest.ledger.entries] == [False, False, True, False]


def test_a_message_that_is_named_in_a_history_is_not_an_equal_one_of_another_branch(session: Session) -> None:
    yes = {"role": "user", "content": "yes"}
    talk = [yes, {"role": "assistant", "content": "one"}, yes | {"id": "m"}]
    session.prefill(talk)
    session.prefill([*talk[:2], {"role": "user", "content": "another"}])  # the branch that is looked into first
    assert [redaction.message_id for redaction in session.retract("m", messages=talk).redactions] == ["m"]
    first, other = session.branches
    assert [bool(entry.cuts) for entry in first.ledger.entries] == [False, False, True]
    assert [entry.message.id for entry in other.ledger.entries] == [None, None, None]


def test_a_message_that_takes_the_place_of_an_equal_one_without_an_id_is_erased_alone(session: Session) -> None:
    yes = {"role": "user", "content": "yes"}
    session.prefill([yes, yes, yes, yes | {"id": "m"}])
    session.retract("m")
    session.prefill([yes, yes, yes | {"id": "m"}])  # one vanished: the cells of the third are now those of "m"
    latest = session.branches.latest
    assert latest is not None and [bool(entry.cuts) for entry in latest.ledger.entries] == [False, False, True]


def test_of_equal_messages_the_same_one_is_left_out_of_the_cells_as_of_a_history_with_a_tombstone(
    session: Session,
) -> None:
    """Its place is gone: of those that are whole it is the second, another one once the first lacks its text."""
    yes = {"role": "user", "content": "yes"}
    talk = [yes | {"id": "m"}, {"role": "user", "content": "one"}, yes]
    session.prefill(talk)
    report = session.retract("m")
    session.retract(session.spans()[2].id)
    talk = [talk[0], {"role": "user", "content": "two"}, yes, yes]
    session.prefill(talk)
    usage = session.prefill(report.tombstones(talk))
    latest = session.branches.latest
    assert latest is not None and [bool(entry.cuts) for entry in latest.ledger.entries] == [True, False, False, True]
    assert usage.left_out == len("yes")


def test_a_tombstone_is_not_taken_for_an_equal_message_that_was_retracted_under_another_id(session: Session) -> None:
    whole = {"role": "user", "id": "m", "content": "one two"}
    equal = {"role": "user", "id": "n", "content": "one"}
    session.prefill([whole, equal])
    report = session.retract(CharRange(message="m", start=3, end=7))
    session.retract("n")
    assert session.prefill(report.tombstones([whole, equal])).prefilled == 0


def test_a_retraction_that_waits_is_not_made_when_it_was_undone_in_another_process(tmp_path: Path) -> None:
    here, there = (Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never").session("s") for _ in range(2))
    answer = begun(here)
    report = here.retract("c1")
    there.undo(report)
    here.evict()
    assert report.status is RetractionStatus.QUEUED and here.reports == []
    assert not any(entry.cuts for branch in here.branches for entry in branch.ledger.entries)
    del answer
    for session in (here, there):
        session.evict()


def test_what_is_left_of_a_message_is_known_in_the_next_process_after_a_copy_without_it(tmp_path: Path) -> None:
    """The copy knew the digests of the parts first, and its retraction is in no log."""
    parts = [{"type": "text", "text": text, "document_id": text} for text in ("one ", "two ")]
    talk = [H[0], {"role": "user", "id": "m", "content": parts}, H[2]]
    session = Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never").session("s")
    session.prefill(talk)
    with session.without("two "):
        left = session.retract("two ").tombstones(talk)
    check_next_process(session, tmp_path, left, "one ")


def test_what_is_left_of_a_message_is_known_in_the_next_process_of_a_fork(tmp_path: Path) -> None:
    """It begins with the retractions in force; the digests of the parts came with one that was undone."""
    talk = [H[0], {"role": "user", "id": "m", "content": "one two "}, H[2]]
    session = Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never").session("s")
    session.prefill(talk)
    two = CharRange(message="m", start=4, end=8)
    session.undo(session.retract(two))
    session.prefill(talk)
    left = session.retract(two).tombstones(talk)
    fork = session.fork("f")
    session.evict()
    check_next_process(fork, tmp_path, left, "one ")


@pytest.mark.parametrize("copied", [False, True], ids=["of the session", "of a copy without something"])
def test_a_fork_that_is_opened_again_knows_tombstones_of_a_retraction_that_was_undone_before_it(
    tmp_path: Path, copied: bool
) -> None:
    """Nothing was in force when it began, so nothing in its log told that the text is a version of the message."""
    whole = {"role": "user", "id": "m", "content": "one two "}
    memory = Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never")
    session = memory.session("s")
    session.prefill([H[0], whole])
    report = session.retract(CharRange(message="m", start=4, end=8))
    (left,) = report.tombstones([whole])
    session.undo(report)
    session.prefill([H[0], whole])
    origin = session.without("u") if copied else session
    origin.fork("f")
    memory.delete_session("f")
    fork = memory.session("f")
    fork.prefill([H[0], left])
    fork.retract(CharRange(message="m", start=0, end=3), reason="security")
    usage = fork.prefill([H[0], whole])
    assert not visible(fork, text="one")
    assert usage.corrected == ()
    for name in memory.sessions():
        memory.delete_session(name)


def test_a_fork_logs_what_it_began_with_and_not_what_its_own_log_holds(tmp_path: Path) -> None:
    memory = Memory(ENGINE, audit=tmp_path / "audit.sqlite", heal="never")
    session = memory.session("s")
    session.prefill(H)
    session.retract("u")
    fork = session.fork("f")
    report = fork.retract("c1")
    memory.delete_session("f")
    again = session.fork("f")
    again.undo(report)
    again.prefill(H)
    assert visible(again)
    assert not visible(again, text="q<")
    for name in memory.sessions():
        memory.delete_session(name)


def test_a_tombstone_is_known_also_where_another_session_retracts_the_same_text_as_a_message(session: Session) -> None:
    whole = {"role": "user", "id": "m", "content": "one two "}
    session.prefill([whole])
    report = session.retract(CharRange(message="m", start=4, end=8))
    (left,) = report.tombstones([whole])
    session.undo(report)
    with session._memory.new_session("other") as other:
        other.prefill([left])
        other.retract("m")
    session.prefill([left])
    report = session.retract(CharRange(message="m", start=0, end=3), reason="security")
    assert [message["content"] for message in report.tombstones([left])] == [" "]
    assert session.prefill([whole]).corrected == ()
    assert not visible(session, text="one")


def check_next_process(session: Session, folder: Path, left: list[dict[str, Any]], text: str) -> None:
    """Check that another process, which knows what the log says, reads this of a message of which something is left."""
    session.evict()
    key = session.state.records._originals.key
    assert key is not None
    originals._COLLECTIONS.pop(key.id)
    later = Memory(ENGINE, audit=folder / "audit.sqlite", heal="never").session(session.id)
    assert later.prefill(left).left_out == 0
    assert visible(later, text=text)
    later.evict()


def test_a_message_that_got_its_id_in_another_history_is_left_out_where_it_was(session: Session) -> None:
    yes = {"role": "user", "content": "yes"}
    one = [yes, {"role": "user", "content": "one"}]
    session.prefill([*one, yes | {"id": "m"}])
    session.prefill([*one, yes, H[2]])
    session.retract("m")
    session.prefill([*one, yes, {"role": "user", "content": "another"}])
    latest = session.branches.latest
    assert latest is not None and [bool(entry.cuts) for entry in latest.ledger.entries] == [False, False, True, False]


@pytest.mark.parametrize("answers", [False, True])
def test_of_an_empty_message_there_is_nothing_to_retract_among_approximate_cells(
    session: Session, answers: bool
) -> None:
    session.prefill([*H[:2], {"role": "user", "id": "e", "content": ""}, H[2]])
    session.retract("c1", eraser="drop")
    assert session.state.approximate
    stream = session.stream([*H[:2], {"role": "user", "id": "e", "content": ""}, H[2]], max_tokens=3)
    begun_ = next(iter(stream)) if answers else None
    report = session.retract("e")
    assert (report.status, report.tokens_erased) == ("noop", 0)
    stream.close()
    assert session.report(report.id).status is RetractionStatus.NOOP
    del begun_
