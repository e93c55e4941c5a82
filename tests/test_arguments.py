"""A wrong argument is an error in one sentence that names it, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory import (
    ArgumentError,
    CharRange,
    KVMemoryError,
    Memory,
    Policy,
    Reason,
    RetractionReport,
    Session,
    TargetError,
    TokenCounter,
    UnknownTargetError,
    cuts_of,
    get_eraser,
)
from tests.tiny import lent_memory, memory_of, tiny_engine

ENGINE = tiny_engine()
RULED = Memory(ENGINE, policy=Policy.of({"retract": [{"rule": "tool_error"}]}), heal="never")
H: list[dict[str, Any]] = [
    {"role": "user", "id": "u1", "content": "Hello there"},
    {"role": "tool", "tool_call_id": "c1", "content": "the code is 4711"},
    {"role": "user", "id": "u2", "content": "Why?"},
    {"role": "assistant", "id": "a1", "content": "So."},
]
ASKED = H[:3]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    for memory in lent_memory(ENGINE):
        session = memory.session("s")
        session.prefill(H)
        session.retract("u2")
        memory.session("other").prefill(H)
        memory.session("other").retract("u1")
        yield session


def report_of(session: Session) -> RetractionReport:
    return session.reports[0]


Call = Callable[[Session, Any], object]
TEXT, FLAG, NUMBER, FUNCTION, LIST, NONE = "text", "flag", "number", "function", "list", "none"
CALLS: dict[str, tuple[str, Call, set[str]]] = {
    "retract target": ("target", lambda s, x: s.retract(x), {TEXT}),
    "retract reason": ("reason", lambda s, x: s.retract("c1", reason=x), {TEXT}),
    "retract by": ("by", lambda s, x: s.retract("c1", by=x), {TEXT}),
    "retract eraser": ("eraser", lambda s, x: s.retract("c1", eraser=x), {TEXT, NONE}),
    "retract messages": ("conversation", lambda s, x: s.retract("c1", messages=x), {NONE}),
    "retract cascade": ("cascade", lambda s, x: s.retract("c1", cascade=x), {NONE}),
    "retract keep_undo": ("keep_undo", lambda s, x: s.retract("c1", keep_undo=x), {FLAG, NONE}),
    "retract dry_run": ("dry_run", lambda s, x: s.retract("c1", dry_run=x), {FLAG}),
    "explain": ("target", lambda s, x: s.explain(x), {TEXT}),
    "find": ("target", lambda s, x: s.find(x), {TEXT}),
    "find messages": ("conversation", lambda s, x: s.find("c1", x), {NONE}),
    "undo": ("report", lambda s, x: s.undo(x), set()),
    "report": ("report", lambda s, x: s.report(x), set()),
    "regenerate": ("report", lambda s, x: s.regenerate(x, H), set()),
    "regenerate messages": ("conversation", lambda s, x: s.regenerate(report_of(s), x), set()),
    "tombstones": ("conversation", lambda s, x: report_of(s).tombstones(x), set()),
    "cuts_of": ("conversation", lambda s, x: cuts_of(x, report_of(s).redactions), set()),
    "apply_policy": ("conversation", lambda s, x: RULED.session("r").apply_policy(x), set()),
    "prefill": ("conversation", lambda s, x: s.prefill(x), set()),
    "prefill tools": ("tools", lambda s, x: s.prefill(H, x), {LIST, NONE}),
    "prefill without": ("without", lambda s, x: s.prefill(H, without=x), {LIST}),
    "prefill progress": ("progress", lambda s, x: s.prefill(H, progress=x), {FUNCTION, NONE}),
    "chat": ("conversation", lambda s, x: s.chat(x), set()),
    "chat cancelled": ("cancelled", lambda s, x: s.chat(ASKED, cancelled=x), {FUNCTION, NONE}),
    "chat history_eraser": ("eraser", lambda s, x: s.chat(ASKED, history_eraser=x), {TEXT, NONE}),
    "chat max_tokens": ("max_tokens", lambda s, x: s.chat(ASKED, max_tokens=x), {NUMBER}),
    "chat temperature": ("temperature", lambda s, x: s.chat(ASKED, temperature=x), {NUMBER, FLAG}),
    "chat stop": ("stop", lambda s, x: s.chat(ASKED, stop=x), {LIST}),
    "chat seed": ("seed", lambda s, x: s.chat(ASKED, seed=x), {NUMBER, NONE}),
    "chat mask": ("mask", lambda s, x: s.chat(ASKED, mask=x), {FUNCTION, NONE}),
    "stream progress": ("progress", lambda s, x: s.stream(ASKED, progress=x), {FUNCTION, NONE}),
    "score": ("answer", lambda s, x: s.score(ASKED, x), {TEXT}),
    "attribute": ("target", lambda s, x: s.attribute(x), {TEXT}),
    "defer": ("action", lambda s, x: s.defer(x), {FUNCTION}),
    "fork": ("session id", lambda s, x: s.fork(x), {TEXT, NONE}),
    "without": ("target", lambda s, x: s.without(x), {TEXT}),
    "session": ("session id", lambda s, x: memory_of(s).session(x), {TEXT}),
    "new_session": ("session id", lambda s, x: memory_of(s).new_session(x), {TEXT}),
    "get": ("session id", lambda s, x: memory_of(s).get(x), {TEXT}),
    "delete_session": ("session id", lambda s, x: memory_of(s).delete_session(x), {TEXT}),
    "load_eraser": ("eraser", lambda s, x: memory_of(s).load_eraser(x), {TEXT}),
    "get_eraser": ("eraser", lambda s, x: get_eraser(x), {TEXT}),
    "count_tokens": ("conversation", lambda s, x: memory_of(s).count_tokens(x), set()),
    "count_tokens tools": ("tools", lambda s, x: memory_of(s).count_tokens(H, x), {LIST, NONE}),
    "count_tokens answer": ("answer", lambda s, x: memory_of(s).count_tokens(H, answer=x), {FLAG}),
    "count_tokens of a counter": ("conversation", lambda s, x: TokenCounter(ENGINE).count_tokens(x), set()),
    "token_ids": ("text", lambda s, x: TokenCounter(ENGINE).token_ids(x), {TEXT}),
    "Memory model": ("model", lambda s, x: Memory(x), {TEXT, NONE}),
    "Memory eraser": ("eraser", lambda s, x: Memory(ENGINE, eraser=x), {TEXT, NONE}),
    "Memory calibration": ("calibration", lambda s, x: Memory(ENGINE, calibration=x), {TEXT, NONE}),
    "Memory cache_tokens": ("cache_tokens", lambda s, x: Memory(ENGINE, cache_tokens=x), {NUMBER, NONE}),
    "Memory policy": ("policy", lambda s, x: Memory(ENGINE, policy=x), {TEXT, NONE}),
    "Memory audit": ("audit", lambda s, x: Memory(ENGINE, audit=x), {TEXT, NONE}),
    "Memory heal": ("heal", lambda s, x: Memory(ENGINE, heal=x), {NONE}),
    "Memory on_heal": ("on_heal", lambda s, x: Memory(ENGINE, on_heal=x), {FUNCTION, NONE}),
    "Policy.load": ("policy", lambda s, x: Policy.load(x), {TEXT}),
    "Policy.of": ("policy", lambda s, x: Policy.of(x), set()),
    "Policy.handling": ("reason", lambda s, x: Policy().handling(x), {TEXT}),
    "Reason.of": ("reason", lambda s, x: Reason.of(x), {TEXT}),
    "CharRange message": ("message", lambda s, x: CharRange(message=x, start=0, end=1), {TEXT}),
    "CharRange start": ("start", lambda s, x: CharRange(message="c1", start=x, end=99), {NUMBER}),
    "CharRange end": ("end", lambda s, x: CharRange(message="c1", start=0, end=x), {NUMBER}),
}
WRONG: dict[str, list[Any]] = {
    TEXT: ["zz"],
    FLAG: [True],
    NUMBER: [5],
    FUNCTION: [print],
    LIST: [["zz"], []],
    NONE: [None],
    "never right": [b"c1", 2.5, object(), {"a": 1}],
}
"""Arguments, by what has to be allowed for them to be right."""


def state_of(session: Session) -> object:
    memory = memory_of(session)
    return [
        (
            s.id,
            s.spans(),
            s.reports,
            s.state.records.redactions,
            [ENGINE.cells(b.seq) for b in s.branches if b.resident],
        )
        for s in map(memory.session, memory.sessions())
    ]


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_named_in_one_sentence(session: Session, call: str) -> None:
    named, make, right = CALLS[call]
    before = state_of(session)
    for kind, values in WRONG.items():
        for wrong in values if kind not in right else ():
            if call == "chat temperature" and wrong == 2.5:
                continue
            with pytest.raises(KVMemoryError) as error:
                make(session, wrong)
            text = str(error.value)
            names = (named, "message 0") if named == "conversation" else (named,)
            assert any(name in text.lower() for name in names) or isinstance(error.value, UnknownTargetError), text
            assert text.endswith(".")
            assert "\n" not in text
    assert state_of(session) == before


def test_the_report_of_another_session_or_of_an_undone_retraction_is_refused(session: Session) -> None:
    other = memory_of(session).session("other")
    theirs = report_of(other)
    for call in (session.undo, lambda report: session.regenerate(report, H)):
        with pytest.raises(TargetError, match=f"The report {theirs.id} is of session 'other', not of 's'"):
            call(theirs)
    for report_id in (theirs.id, "zz"):
        with pytest.raises(TargetError, match=f"Session 's' has no report '{report_id}'"):
            session.report(report_id)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": 3, "end": 1}, r"an end after its start; \[3, 1\) of 'c1' is empty"),
        ({"start": 2, "end": 2}, r"an end after its start; \[2, 2\) of 'c1' is empty"),
        ({"start": -3, "end": 1}, "as start the number of its first character, 0 or more; got -3"),
        ({"start": "0", "end": 1}, "as start the number of its first character, 0 or more; got a value of type str"),
        ({"start": True, "end": 2}, "as start .*; got True"),
        ({"start": 0, "end": 1.5}, "as end the number after its last character, a whole number; got 1.5"),
        ({"start": 0}, "as end .*; got nothing"),
        ({"start": 0, "end": 1, "text": "secret"}, "no text; got a value of type str"),
    ],
    ids=str,
)
def test_a_range_that_is_none_says_why(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=f"^CharRange needs {said}.$"):
        CharRange(message="c1", **wrong)


def test_a_range_of_an_unknown_message_names_the_message(session: Session) -> None:
    with pytest.raises(UnknownTargetError, match="has the id 'zz', whose characters 0 to 1 are named; spans"):
        session.retract(CharRange(message="zz", start=0, end=1))
    with memory_of(session).session("third") as third:
        third.prefill([{"role": "user", "id": "theirs", "content": "Hello there"}])
        with pytest.raises(
            UnknownTargetError, match="'theirs', whose characters 0 to 99 are named; session 'third' does"
        ):
            session.find(CharRange(message="theirs", start=0, end=99))


def test_an_argument_error_is_a_type_error_and_a_value_error() -> None:
    for builtin in (TypeError, ValueError):
        with pytest.raises(builtin):
            Reason.of(5)  # type: ignore[arg-type]
    assert issubclass(ArgumentError, KVMemoryError)


TEXTS = st.one_of(st.binary(), st.lists(st.text()), st.dictionaries(st.text(), st.text()))


@given(st.one_of(st.none(), st.integers(), st.floats(), TEXTS))
def test_no_text_is_quoted_in_the_error(value: Any) -> None:
    with pytest.raises(ArgumentError) as error:
        Reason.of(value)
    plain = value is None or isinstance(value, (int, float))
    assert str(error.value).endswith(f"; got {value!r}." if plain else f"; got a value of type {type(value).__name__}.")


@pytest.mark.parametrize("option", ["max_new_tokens", "top_k", "tool_choice"])
def test_an_option_that_an_answer_does_not_have_is_named(option: str) -> None:
    session = Memory(tiny_engine(), heal="never").session("s")
    with pytest.raises(ArgumentError, match=f"called {option}; known are max_tokens, temperature"):
        session.chat([{"role": "user", "content": "one"}], **{option: 3})  # type: ignore[arg-type]
