from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk

from kv_memory.sessions.reply import call_id, read_message
from langchain_kv_memory.call_stream import CallStream

ARGS = {"a": 'quote " and brace } and \\', "b": [1, {"c": "</tool>"}], "d": {}}
CALL = f'<tool_call>\n{{"name": "f", "arguments": {json.dumps(ARGS)}}}\n</tool_call>'
TEXTS = [
    "",
    "Just words, 1 < 2 and <b>.",
    "Words.\n\n " + CALL,
    CALL + "\n" + CALL.replace('"f"', '"g"'),
    'No arguments: <tool_call>{"name": "f", "arguments": {}}</tool_call> and after',
    "White space at the end  \n ",
    '<tool_call>\n{"name" : "f" ,\n "arguments" : {"a": 1} }\n</tool_call>',
]


def streamed(text: str, cuts: list[int]) -> AIMessageChunk:
    stream = CallStream(lambda number: call_id("x", number))
    whole = AIMessageChunk(content="")
    edges = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in pairwise(edges):
        for part in stream.push(text[start:end]):
            whole += (
                AIMessageChunk(content=part)
                if isinstance(part, str)
                else AIMessageChunk(content="", tool_call_chunks=[part])
            )
    return whole + AIMessageChunk(content=read_message(text)["content"][len(stream.said) :], chunk_position="last")


@pytest.mark.parametrize("text", TEXTS)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_however_it_comes_it_is_what_the_whole_text_says(text: str, cuts: list[int]) -> None:
    whole, said = streamed(text, cuts), read_message(text, "x")
    assert whole.content == said["content"]
    assert [(c["id"], c["name"], c["args"]) for c in whole.tool_calls] == [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in said.get("tool_calls", [])
    ]


def test_arguments_come_as_they_grow() -> None:
    stream = CallStream(str)
    parts = [part for piece in (CALL[i : i + 8] for i in range(0, len(CALL), 8)) for part in stream.push(piece)]
    assert len(parts) > 5
    assert not any(isinstance(part, str) for part in parts)


@pytest.mark.parametrize("text", ['<tool_call>{"name": "f"', "<tool_call>not JSON</tool_call>", "a <tool_ca"])
def test_what_is_no_call_is_content_in_the_end(text: str) -> None:
    whole = streamed(text, list(range(50)))
    assert (whole.content, whole.tool_calls) == (text, [])


def test_a_call_that_is_cut_off_is_invalid_and_in_the_content() -> None:
    text = 'So: <tool_call>{"name": "f", "arguments": {"a": "unfinis'
    whole = streamed(text, [])
    assert whole.content == text
    assert [call["name"] for call in whole.invalid_tool_calls or whole.tool_calls] == ["f"]
