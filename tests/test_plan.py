"""The plan for reading a conversation, made from ledgers alone: what is reused, erased and prefilled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kv_memory.conversation.alignment import align
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.ledger import Ledger, selection
from kv_memory.conversation.messages import Cuts, parse_messages
from kv_memory.conversation.redactions import redactions_of
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.sessions.plan import ReadingPlan, plan_reading
from kv_memory.testing.chat import tiny_tokenizer

FORM = ChatFormat(HFTokenizer(tiny_tokenizer()))
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "id": "u1", "content": "What is the code?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "the code is 4711"},
    {"role": "user", "id": "u2", "content": "And now?"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}]


@dataclass
class Known:
    """What a plan sees of a branch; no engine is behind it."""

    ledger: Ledger
    tools_digest: str
    busy: bool = False
    used: float = 1.0
    resident: bool = field(default=True)


def known(messages: list[dict[str, Any]], tools: Any = None, **more: Any) -> Known:
    """A branch that holds these messages."""
    ledger, at = Ledger(), 0
    parsed = parse_messages(messages)
    for message, pieces in zip(parsed, FORM.encode(parsed, tools), strict=True):
        ledger.append(message, pieces, at)
        at += sum(len(piece.ids) for piece in pieces)
    return Known(ledger, plan([], messages, tools=tools).tools_digest, **more)


def plan(branches: list[Known], messages: list[dict[str, Any]], *, tools: Any = None, redactions: Any = ()) -> Any:
    found: ReadingPlan[Known] = plan_reading(branches, parse_messages(messages), tools, redactions, FORM)
    return found


def tokens(messages: list[dict[str, Any]]) -> int:
    return sum(len(piece.ids) for pieces in FORM.encode(parse_messages(messages), None) for piece in pieces)


def test_without_a_branch_all_is_prefilled() -> None:
    found = plan([], TALK)
    assert (found.source, found.in_place, found.unread) == (None, False, tuple(parse_messages(TALK)))
    assert found.tokens == tokens(TALK)


def test_only_what_is_new_is_prefilled_in_place() -> None:
    branch = known(TALK[:3])
    found = plan([branch], TALK)
    assert found.source is branch
    assert found.in_place
    assert [message.content for message in found.unread] == ["the code is 4711", "And now?"]
    assert found.tokens == tokens(TALK) - tokens(TALK[:3])


@pytest.mark.parametrize("longer", [TALK, [*TALK[:4], {"role": "user", "content": "Else?"}]], ids=["longer", "other"])
def test_a_branch_that_goes_on_elsewhere_is_forked(longer: list[dict[str, Any]]) -> None:
    branch = known(longer)
    found = plan([branch], [*TALK[:4], {"role": "user", "content": "Never mind."}])
    assert (found.source, found.in_place, found.alignment.end) == (branch, False, 4)


def test_a_branch_with_an_answer_under_way_is_forked() -> None:
    assert not plan([known(TALK[:3], busy=True)], TALK).in_place


def test_the_longest_match_is_taken_and_of_equals_the_one_that_needs_no_copy() -> None:
    short, busy, free = known(TALK[:2], used=9.0), known(TALK[:4], busy=True, used=9.0), known(TALK[:4])
    assert plan([short, busy, free], TALK).source is free


@pytest.mark.parametrize("change", [{"resident": False}, {"tools_digest": "of other tools"}])
def test_a_branch_without_its_cells_or_with_other_tools_is_not_used(change: dict[str, Any]) -> None:
    branch = known(TALK[:4])
    branch.__dict__.update(change)
    assert plan([branch], TALK).source is None


def test_tools_are_part_of_what_is_known() -> None:
    branch = known(TALK[:2], TOOLS)
    assert plan([branch], TALK, tools=TOOLS).source is branch
    assert plan([branch], TALK).source is None


def test_a_message_that_vanished_is_to_be_erased() -> None:
    found = plan([known(TALK)], [TALK[0], *TALK[2:]])
    assert (found.alignment.gone, found.alignment.kept, found.tokens) == ([1], [0, 2, 3, 4], 0)


def test_a_message_that_was_emptied_is_to_be_erased() -> None:
    found = plan([known(TALK)], [*TALK[:3], {**TALK[3], "content": ""}, TALK[4]])
    assert (found.alignment.shortened, found.tokens) == ({3: Cuts(((0, len("the code is 4711")),))}, 0)


def test_what_is_retracted_is_left_out_of_what_is_prefilled() -> None:
    read = known(TALK)
    entry = read.ledger.entries[3]
    redactions = redactions_of(read.ledger, selection(entry, entry.everything()))
    found = plan([known(TALK[:3])], TALK, redactions=redactions)
    assert found.tokens == tokens(TALK) - tokens(TALK[:3]) - len("the code is 4711")
    assert [bool(cuts) for cuts in found.unread_cuts] == [True, False]


def test_a_last_message_whose_ending_changes_is_prefilled_again() -> None:
    """The template wraps tool results that follow each other together: the first one's ending is another then."""
    calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in ("c1", "c2")]
    talk = [*TALK[:2], {**TALK[2], "tool_calls": calls}, TALK[3]]
    found = plan([known(talk)], [*talk, {"role": "tool", "tool_call_id": "c2", "content": "4712"}])
    assert found.alignment.known == 3
    assert [message.tool_call_id for message in found.unread] == ["c1", "c2"]


def test_making_a_plan_changes_nothing() -> None:
    branch = known(TALK)
    before = [(entry.message, list(entry.runs), entry.cuts) for entry in branch.ledger.entries]
    plan([branch], [TALK[0], *TALK[2:4], {"role": "user", "content": "Well?"}])
    assert [(entry.message, list(entry.runs), entry.cuts) for entry in branch.ledger.entries] == before


def test_equal_results_of_other_calls_are_told_apart() -> None:
    talk = [*TALK[:2], {**TALK[3], "tool_call_id": "c0"}, TALK[3]]
    found = align(known(talk).ledger, parse_messages([*TALK[:2], TALK[3]]))
    assert (found.kept, found.gone) == ([0, 1, 3], [2])
