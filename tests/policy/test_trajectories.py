"""Rules on real agent trajectories: what they decide can be carried out, and is what it should be."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory import Memory
from kv_memory.policy import Rule
from kv_memory.policy.rules import FlaggedContent, SupersededToolResult, TimeToLive, ToolError
from kv_memory.policy.rules.errors import starting_with
from tests.tiny import tiny_engine

Data = Callable[[str], Path]
_WHITE = r"(?:\s|\\n|\\)+"
"""White space of a text that a tool has written as YAML or as Python."""


def records(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["tau_bench_airline.jsonl.gz", "agentdojo_workspace_travel.jsonl.gz"])
def test_what_is_decided_can_be_retracted(data: Data, name: str) -> None:
    memory = Memory(tiny_engine(max_positions=1_000_000))
    errors = starting_with(["Error"])
    rules: list[Rule] = [SupersededToolResult(is_error=errors), ToolError(is_error=errors), TimeToLive(turns=1)]
    counted: Counter[str] = Counter()
    for index, record in enumerate(records(data(name))[::10]):
        messages = record["messages"]
        for rule in rules:
            for decision in rule.decide(messages):
                message = messages[decision.message]
                assert message["role"] == "tool"
                assert message["content"]
                assert rule.name != "tool_error" or message["content"].startswith("Error") or message["error"]
                session = memory.session(str(index))
                (span,) = session.retract(decision.target, messages=messages, dry_run=True).spans
                assert span.message == decision.message
                counted[rule.name] += 1
    assert counted["superseded"] > 0 or counted["tool_error"] > 0


def test_injections_are_flagged_where_they_stand(data: Data) -> None:
    found = 0
    for record in records(data("agentdojo_workspace_travel.jsonl.gz"))[::5]:
        wanted = [text.split() for text in record["injections"].values() if text]
        injected = [_WHITE.join(map(re.escape, words)) for words in wanted]

        def detect(text: str, patterns: list[str] = injected) -> list[tuple[int, int]]:
            return [match.span() for pattern in patterns for match in re.finditer(pattern, text)]

        for decision in FlaggedContent(detect).decide(record["messages"]):
            assert decision.chars is not None
            text = record["messages"][decision.message]["content"][slice(*decision.chars)]
            assert any(re.fullmatch(pattern, text) for pattern in injected)
            found += 1
    assert found > 0
