"""A tombstone holds no copy of what was retracted, wherever a provider may keep one."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from kv_memory import Memory
from langchain_kv_memory import ErasableChatModel

SECRET = "4711-SECRET"


def entombed(pocket: Memory, message: Any, target: Any) -> str:
    """The tombstone of a message that was never read, as text."""
    model = ErasableChatModel(memory=pocket)
    history = [HumanMessage("Hello.", id="hello"), message]
    report = model.retract(target, messages=history, session_id="tombstones")
    (left,) = report.tombstones(history)
    return repr(left.model_dump())


def test_of_an_answer(pocket: Memory) -> None:
    call = {"type": "tool_call", "id": "c1", "name": "f", "args": {"code": 1}}
    message = AIMessage(
        [
            {"type": "reasoning", "reasoning": f"think {SECRET}"},
            {"type": "thinking", "thinking": f"think {SECRET}", "signature": SECRET},
            {"type": "text", "text": f"It is {SECRET}.", "annotations": [{"cited_text": SECRET}], "id": "b1"},
            {"type": "tool_call", "id": "c1", "name": "f", "args": {"code": 1}},
        ],
        id="a1",
        tool_calls=[call],
        invalid_tool_calls=[
            {"type": "invalid_tool_call", "id": "c9", "name": "f", "args": SECRET, "error": SECRET},
        ],
        additional_kwargs={"reasoning_content": SECRET},
        response_metadata={"logprobs": {"content": [{"token": SECRET}]}, "finish_reason": "stop", "raw": SECRET},
    )
    left = entombed(pocket, message, "a1")
    assert SECRET not in left
    assert "finish_reason" in left


def test_of_one_of_its_calls(pocket: Memory) -> None:
    calls = [
        {"type": "tool_call", "id": f"c{number}", "name": "f", "args": {"code": text}}
        for number, text in enumerate(("fine", SECRET))
    ]
    message = AIMessage([{"type": "text", "text": "Calling."}, *calls], id="a1", tool_calls=calls)
    left = entombed(pocket, message, "c1")
    assert SECRET not in left
    assert "fine" in left
    assert "Calling." in left


def test_of_a_result(pocket: Memory) -> None:
    message = ToolMessage(SECRET, tool_call_id="c1", artifact={"raw": SECRET}, additional_kwargs={"copy": SECRET})
    assert SECRET not in entombed(pocket, message, "c1")
