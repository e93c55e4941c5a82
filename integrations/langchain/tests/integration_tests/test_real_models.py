"""Real small models as GGUF files: a forced call is one that can be run, and the agent of the example."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from kv_memory.testing.real_models import qwen, smollm2
from langchain_kv_memory import ErasableChatModel

EXAMPLE = Path(__file__).parents[4] / "examples" / "langchain_gguf_agent.py"


@pytest.fixture(scope="module")
def small() -> ErasableChatModel:
    """SmolLM2, in whose vocabulary the marker of a call is several tokens."""
    return ErasableChatModel(model=smollm2(), context_length=1024, max_tokens=48, heal="never")


@pytest.mark.parametrize(
    ("tool", "argument", "request_"),
    [("order_status", "order_id", "Where is my order W-5530?"), ("stock", "item", "Is the blue kettle in stock?")],
)
def test_a_forced_call_fits_its_schema(small: ErasableChatModel, tool: str, argument: str, request_: str) -> None:
    example = runpy.run_path(str(EXAMPLE))
    bound = small.bind_tools([example["order_status"], example["stock"]], tool_choice=tool)
    message = bound.invoke([("system", example["SYSTEM"]), ("user", request_)], {"configurable": {"thread_id": tool}})
    (call,) = message.tool_calls
    assert call["name"] == tool
    assert list(call["args"]) == [argument]
    assert isinstance(call["args"][argument], str)
    assert message.text == ""


def test_a_model_that_writes_its_calls_bare_calls_unasked() -> None:
    model, example = ErasableChatModel(model=qwen(), context_length=1024, max_tokens=64), runpy.run_path(str(EXAMPLE))
    bound = model.bind_tools([example["order_status"], example["stock"]])
    (call,) = bound.invoke("Where is my order W-5530?").tool_calls
    assert (call["name"], call["args"]) == ("order_status", {"order_id": "W-5530"})


def test_the_agent_answers_from_the_corrected_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(qwen())])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    answers = re.findall(r"^agent: (.*?)    \[", printed, re.MULTILINE)
    assert re.search(r"\b[1-9]\d* tokens erased", printed)
    assert "cancelled" in answers[0]
    assert "shipped" in answers[-1]
    assert "Friday" in answers[-1]
    assert "cancelled" not in answers[-1]
