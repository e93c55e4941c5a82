"""Real agent trajectories: every character of every message has its cells, and the pocket model replays them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kv_memory import Memory
from kv_memory.conversation.files import ConversationFile
from kv_memory.conversation.messages import parse_messages
from kv_memory.errors import AmbiguousTargetError, ConversationError
from kv_memory.pocket import model_path

Data = Callable[[str], Path]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(model_path(), heal="never")


@pytest.mark.parametrize("name", ["tau_bench_airline.jsonl.gz", "agentdojo_workspace_travel.jsonl.gz"])
def test_spans_spell_the_messages(data: Data, memory: Memory, name: str) -> None:
    for index in range(0, 200, 10):
        messages, _ = ConversationFile(data(name)).load(index)
        parsed = parse_messages(messages)
        for message, pieces in zip(parsed, memory.format.encode(parsed), strict=True):
            content = [piece for piece in pieces if piece.kind == "content"]
            text = memory.engine.tokenizer.decode([i for piece in content for i in piece.ids])
            assert text == message.content
            calls = [piece for piece in pieces if piece.kind == "call"]
            assert len(calls) == len(message.tool_calls)
            for piece, call in zip(calls, message.tool_calls, strict=True):
                written = json.loads(memory.engine.tokenizer.decode(piece.ids))
                assert (written["name"], written["arguments"]) == (call.name, call.arguments)


def test_a_trajectory_is_retracted_from_as_if_never_seen(data: Data, memory: Memory) -> None:
    messages, _ = ConversationFile(data("tau_bench_airline.jsonl.gz")).load(0)
    head = messages[:10]
    session = memory.session("tau")
    session.prefill(head)
    result = next(span for span in session.spans() if span.name == "get_user_details" and span.kind == "tool_result")
    exact = session.fork().retract(result.id, eraser="recompute")
    report = session.retract(result.id)
    assert (exact.status, report.status) == ("exact", "approximate")
    assert report.tokens_erased == result.tokens
    assert report.tokens_recomputed < exact.tokens_recomputed
    assert session.prefill(head).prefilled == 0


def test_a_tool_call_id_that_was_used_twice_is_ambiguous(data: Data, memory: Memory) -> None:
    messages, _ = ConversationFile(data("tau_bench_airline.jsonl.gz")).load(0)
    session = memory.session("twice")
    with pytest.raises(AmbiguousTargetError, match=r"s7 \(message 7\), s17 \(message 17\)"):
        session.prefill(messages, without=["call_oIHazX6yQrB8hUwl4cRilFKj"])
    assert session.spans() == []


@pytest.mark.parametrize(
    ("name", "conversations", "messages"),
    [
        ("ai_sdk.json", 1, 2),
        ("anthropic_request.json", 1, 4),
        ("chatgpt_export.json", 1, 1),
        ("claude_code.jsonl", 1, 3),
        ("crlf_bom.jsonl", 2, 5),
        ("langchain_dicts.json", 1, 2),
        ("letta_evie.af_messages.json", 2, 1),
        ("letta_loop.af_messages.json", 1, 3),
        ("one_message_per_line.jsonl", 1, 5),
        ("openai_batch.jsonl", 2, 5),
        ("sdk_dump.json", 1, 6),
        ("sharegpt.json", 1, 2),
        ("single_line.jsonl", 1, 5),
        ("tau_gpt-4o-airline.json_messages.json", 3, 32),
    ],
)
def test_files_of_other_tools_are_read(data: Data, name: str, conversations: int, messages: int) -> None:
    file = ConversationFile(data(f"conversations/{name}"))
    assert len(file) == conversations
    assert len(parse_messages(file.load()[0])) == messages


def test_a_transcript_without_messages_is_refused_by_its_field(data: Data) -> None:
    with pytest.raises(ConversationError, match=r"line 1 has no list of messages .*'messages_display'"):
        ConversationFile(data("conversations/tau_few_shot.jsonl")).load()
