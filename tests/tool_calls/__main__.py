"""The nightly command: `python -m tests.tool_calls --texts 10000 --seed 7`, or `make nightly`.

Reads many generated answers, each whole and in pieces, also as LangChain's messages and the sum of their chunks, and
writes what it found to benchmarks/results/tool_calls.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk

from benchmarks import record
from kv_memory import FinishReason, Reply, ReplyStream, Usage
from kv_memory.conversation.tool_calls.answer import Answer
from kv_memory.conversation.tool_calls.formats import Known
from langchain_kv_memory.answer import chunks_of, message_of
from tests.tool_calls import answers

METADATA: dict[str, Any] = {"kv_memory": {}}


class Stream:
    """A stream of an answer that is there already."""

    def __init__(self, reply: Reply, parts: Sequence[Any]) -> None:
        self.reply = reply
        self._parts = parts

    def parts(self) -> Sequence[Any]:
        return self._parts


def reply_of(answer: Answer) -> Reply:
    return Reply(
        message=answer.message(),
        invalid_calls=tuple(answer.invalid_calls),
        text=answer.text,
        finish_reason=FinishReason.STOP,
        usage=Usage(reused=0, prefilled=0, erased=0, generated=0),
    )


def seen(message: AIMessage) -> dict[str, Any]:
    invalid = [(call["name"], call["args"]) for call in message.invalid_tool_calls]
    calls = [(call["id"], call["name"], call["args"]) for call in message.tool_calls]
    return {"content": message.content, "calls": calls, "invalid": invalid, "more": message.additional_kwargs}


def check(text: str, cuts: Sequence[int], known: Known, tools: Any, head: str) -> Answer:
    """Raise AssertionError unless kv_memory and LangChain have the same answer, whole and streamed."""
    answer = answers.check(text, cuts, known, tools, head)
    streamed, parts = answers.read(answers.pieces(text, cuts), known, tools, head)
    stream = Stream(reply_of(streamed), parts)
    chunks = [cast(AIMessageChunk, chunk.message) for chunk in chunks_of(cast(ReplyStream, stream), METADATA)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert seen(whole) == seen(message_of(reply_of(answer), METADATA))
    return answer


def main() -> None:
    """Read the answers and write the result; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.tool_calls", description=__doc__)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    counted: Counter[str] = Counter()

    @seed(options.seed)
    @settings(max_examples=options.texts, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(answers.ANSWERS, answers.CUTS, answers.KNOWN, st.sampled_from([None, answers.TOOLS]), answers.HEADS)
    def read_all(text: str, cuts: list[int], known: Known, tools: Any, head: str) -> None:
        counted["texts"] += 1
        answer = check(text, cuts, known, tools, head)
        counted["characters"] += len(text)
        counted["calls"] += len(answer.calls)
        counted["invalid_calls"] += len(answer.invalid_calls)

    began, failure = time.perf_counter(), ""
    try:
        read_all()
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
    result = {**record.environment(options.seed), **counted, "failure": failure[:500]}
    result["seconds"] = round(time.perf_counter() - began, 1)
    record.save("tool_calls", result)
    print(failure or f"{counted['texts']:,} answers, {counted['calls']:,} calls: all read the same, nothing lost.")
    sys.exit(bool(failure))


if __name__ == "__main__":
    main()
