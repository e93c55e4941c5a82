"""Who may retract what; by default and where a policy allows more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_memory import CharRange, Memory, Session, SpanKind
from kv_memory.conversation.spans import Target
from kv_memory.conversation.targets import resolve
from kv_memory.errors import RefusedError
from kv_memory.policy import Authority, Claim, Policy, claims
from tests.tiny import tiny_engine

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "id": "u1",
        "content": [{"type": "text", "text": "One is 1.", "document_id": "d1"}, {"type": "text", "text": "And two?"}],
    },
    {
        "role": "assistant",
        "id": "a1",
        "content": "I look.",
        "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Two is 2."},
    {"role": "assistant", "id": "a2", "content": "It is 2."},
]
kinds = st.sampled_from([kind for kind in SpanKind if kind is not SpanKind.RANGE])


@pytest.fixture(scope="module")
def session() -> Session:
    session = Memory(tiny_engine()).session("a")
    session.prefill(CONVERSATION)
    return session


def claimed(session: Session, target: Target) -> list[tuple[str, str]]:
    ledgers = [branch.ledger for branch in session.branches]
    resolved = resolve(target, ledgers)
    return [(c.id, c.kind.value) for target in resolved for c in claims(target.selections)]


def span(kind: SpanKind) -> Claim:
    return Claim("s1", kind)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("s0", [("s0", "system")]),
        ("u1", [("s1", "user")]),
        ("d1", [("s1.doc0", "document")]),
        ("a1", [("s2", "tool_call"), ("s2", "assistant")]),
        ("s2.call0", [("s2.call0", "tool_call")]),
        ("c1", [("s3", "tool_result")]),
        (CharRange(message="s0", start=0, end=2), [("s0.range0-2", "system")]),
        (CharRange(message="u1", start=4, end=6), [("s1.range4-6", "document")]),
        (CharRange(message="u1", start=4, end=12), [("s1.range4-12", "user")]),
        (CharRange(message="c1", start=4, end=6), [("s3.range4-6", "tool_result")]),
    ],
)
def test_a_part_has_the_kind_of_its_text(session: Session, target: Target, expected: list[tuple[str, str]]) -> None:
    assert claimed(session, target) == expected


@given(st.sampled_from(["tool", "policy", "session:b", "session:a", "nobody", ""]))
def test_nobody_but_owner_and_user_reaches_system_and_user_spans(by: str) -> None:
    for kind in (SpanKind.SYSTEM, SpanKind.USER, SpanKind.RANGE):
        (refusal,) = Authority().refusals(by, [span(kind)], session="a")
        assert (refusal.by, refusal.id, refusal.kind) == (by, "s1", kind)


@given(st.lists(kinds))
def test_the_owner_may_do_everything(named: list[SpanKind]) -> None:
    assert Authority().refusals("owner", [*map(span, named), span(SpanKind.RANGE)]) == ()


def test_the_defaults() -> None:
    def may(by: str) -> set[str]:
        return {kind.value for kind in SpanKind if not Authority().refusals(by, [span(kind)], session="a")}

    read = {"tool_call", "tool_result", "document"}
    assert may("user") == {"user", "assistant", *read}
    assert may("tool") == read
    assert may("policy") == may("session:a") == {"assistant", *read}
    assert may("session:b") == may("session:") == may("nobody") == may("Owner") == set()


@given(st.sampled_from(["user", "tool", "policy", "session:b"]), st.lists(kinds), st.lists(kinds))
def test_exactly_what_is_listed_is_allowed(by: str, allowed: list[SpanKind], named: list[SpanKind]) -> None:
    authority = Authority.model_validate({by.split(":", maxsplit=1)[0]: [kind.value for kind in allowed]})
    refused = authority.refusals(by, list(map(span, named)), session="a")
    assert [refusal.kind for refusal in refused] == [kind for kind in named if kind not in allowed]


def test_a_refusal_says_who_what_and_how_to_allow_it() -> None:
    authority = Policy.of({"authority": {"tool": ["tool_result"]}}).authority
    authority.check("tool", [Claim("s3", SpanKind.TOOL_RESULT)])
    named = [Claim("s3", SpanKind.TOOL_RESULT), Claim("s0", SpanKind.SYSTEM), Claim("s1", SpanKind.USER)]
    with pytest.raises(RefusedError) as error:
        authority.check("tool", named)
    assert str(error.value) == (
        "'tool' may not retract the system span s0 (nor 1 more); to allow it, add 'system' to authority.tool of the "
        "policy."
    )
    assert [(r.by, r.id, r.kind) for r in error.value.refusals] == [
        ("tool", "s0", "system"),
        ("tool", "s1", "user"),
    ]
    with pytest.raises(
        RefusedError, match=r"'guest' may not retract .* known are owner, user, tool, policy and session"
    ):
        authority.check("guest", named[:1])
    with pytest.raises(RefusedError, match=r"'session:b' may not .* add 'user' to authority\.session of the policy"):
        authority.check("session:b", named[2:], session="a")


def test_spans_of_a_session_can_be_asked_about(session: Session) -> None:
    refused = Authority().refusals("policy", session.spans(), session="a")
    assert {refusal.kind for refusal in refused} == {"system", "user"}
