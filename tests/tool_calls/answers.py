"""Answers that a model might write, in every format, whole and broken, and what has to hold of how they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from kv_memory.conversation.tool_calls.answer import Answer
from kv_memory.conversation.tool_calls.blocks import overlap
from kv_memory.conversation.tool_calls.formats import FORMATS, Known
from kv_memory.conversation.tool_calls.parser import AnswerParser
from kv_memory.conversation.tool_calls.parts import ReplyPart
from kv_memory.engines.markers import CHANNEL, CHANNELS, MARKERS

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in ("get_weather", "get_order")
]
ALL: Known = frozenset([*(form.open for form in FORMATS), "<arg_key>"])

Args = dict[str, Any]


def plain(name: str, args: Args, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: args}, ensure_ascii=False)


def hermes(name: str, args: Args) -> str:
    return f"<tool_call>\n{plain(name, args)}\n</tool_call>"


def turned(name: str, args: Args) -> str:
    """Arguments before the name, as a string."""
    return f"<tool_call>{json.dumps({'arguments': json.dumps(args), 'name': name})}</tool_call>"


def coder(name: str, args: Args) -> str:
    said = "".join(f"<parameter={key}>\n{spelled(value)}\n</parameter>\n" for key, value in args.items())
    return f"<tool_call>\n<function={name}>\n{said}</function>\n</tool_call>"


def glm(name: str, args: Args) -> str:
    said = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{spelled(v)}</arg_value>\n" for k, v in args.items())
    return f"<tool_call>{name}\n{said}</tool_call>"


def custom(name: str, args: Args) -> str:
    return f"<function={name}>{json.dumps(args)}</function>"


def llama(name: str, args: Args) -> str:
    return f"<|python_tag|>{plain(name, args, 'parameters')}; {plain(name, args, 'parameters')}"


def mistral(name: str, args: Args) -> str:
    return f'[TOOL_CALLS][{{"name": "{name}", "arguments": {json.dumps(args)}, "id": "abcdefghi"}}]'


def mistral_named(name: str, args: Args) -> str:
    return f"[TOOL_CALLS]{name}[CALL_ID]abcdefghi[ARGS]{json.dumps(args)}[TOOL_CALLS]{name}[ARGS]{json.dumps(args)}"


def granite(name: str, args: Args) -> str:
    return f"<|tool_call|>[{plain(name, args)}]"


def plural(name: str, args: Args) -> str:
    return f"<tool_calls>[{plain(name, args)}]</tool_calls>"


def deepseek(name: str, args: Args) -> str:
    call = f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(args)}<｜tool▁call▁end｜>"
    return f"<｜tool▁calls▁begin｜>{call}<｜tool▁calls▁end｜>"


def deepseek_v3(name: str, args: Args) -> str:
    call = f"function<｜tool▁sep｜>{name}\n```json\n{json.dumps(args)}\n```"
    return f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


def kimi(name: str, args: Args) -> str:
    call = f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{json.dumps(args)}<|tool_call_end|>"
    return f"<|tool_calls_section_begin|>{call}<|tool_calls_section_end|>"


def spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


MARKED: list[Callable[[str, Args], str]] = [
    hermes, turned, coder, glm, custom, llama, mistral, mistral_named, granite, plural, deepseek, deepseek_v3, kimi
]  # fmt: skip
TWICE = (llama, mistral_named)
"""Those that write the call twice."""


def channel_call(name: str, args: Args) -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(args)}<|call|>"


VALUES = st.one_of(
    st.integers(-5, 10**20), st.booleans(), st.none(), st.text(max_size=6), st.sampled_from(["</tool_call>", 'a "b" {'])
)
ARGS = st.dictionaries(st.sampled_from(["city", "days", "x"]), VALUES, max_size=3)
NAMES = st.sampled_from(["get_weather", "get_order", "other"])
CALLS = st.builds(lambda form, name, args: form(name, args), st.sampled_from([*MARKED, plain]), NAMES, ARGS)
CHANNEL_CALLS = st.builds(channel_call, NAMES, ARGS)


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[str]) -> str:
    """A text with a stretch missing: a call that is cut off, or of which something is lost."""
    text = draw(whole)
    start, length = draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))
    return text[:start] + text[start + length :]


ODD = [
    "Let me look. ", "\n", "  ", "1 < 2 and [x] {y}", "<think>", "</think>", "[THINK]", "[/THINK]", "```json\n",
    "\n```", "[" * 1500, '{"a": ' * 300, '"', "\\", "\\u", "\x00", "\ud800", "\U0001f642", "null",
    "NaN", "[-Infinity]",
    "1e999", "9" * 5000, '{"name": "f", "name": "g"}', '{"name": "get_order", "arguments": [1]}', '{"name": null}',
    '{"name": "get_order", "arguments": {"x": NaN}}', '{"name": "get_order", "why": "because"}', "[]", "{}", ",", ";",
    '{"type": "function", "function": {"name": "get_order", "parameters": "{}"}}', "<tool_call>{}</tool_call>",
]  # fmt: skip
MARKS = st.sampled_from([*MARKERS, *CHANNELS, "<function=", "</function>", "<parameter=x>", "</parameter>"])
WORDS = st.one_of(st.sampled_from(ODD), st.text(max_size=8), MARKS)
ANSWERS = st.lists(st.one_of(WORDS, CALLS, broken(CALLS), CHANNEL_CALLS, broken(CHANNEL_CALLS)), max_size=6).map(
    "".join
)
CUTS = st.lists(st.integers(0, 10**4), max_size=30)
KNOWN = st.one_of(st.just(ALL), st.just(frozenset([CHANNEL])), st.sets(st.sampled_from(sorted(ALL))).map(frozenset))
HEADS = st.sampled_from(["<|im_start|>assistant\n", "<think>\n"])


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


def read(
    chunks: Sequence[str], known: Known = ALL, tools: Any = TOOLS, head: str = ""
) -> tuple[Answer, list[ReplyPart]]:
    parser = AnswerParser("x", tools, known, head=head)
    parts = [part for chunk in chunks for part in parser.push(chunk)]
    return parser.answer, [*parts, *parser.finish()]


def merged(parts: Sequence[ReplyPart]) -> dict[str, Any]:
    """What a reader of the stream has in the end."""
    said = {kind: "".join(part.text for part in parts if part.kind == kind) for kind in ("content", "reasoning")}
    return {
        **said,
        "calls": [part.call for part in parts if part.call],
        "invalid": [part.invalid for part in parts if part.invalid],
    }


def check(text: str, cuts: Sequence[int], known: Known, tools: Any, head: str) -> Answer:
    """Raise AssertionError unless the answer is read the same whole and in pieces, and nothing of it is lost."""
    answer, parts = read([text], known, tools, head)
    streamed, later = read(pieces(text, cuts), known, tools, head)
    assert merged(parts) == merged(later)
    assert answer.message() == streamed.message()
    assert answer.segments == streamed.segments
    made = {"content": answer.content, "reasoning": answer.reasoning}
    assert merged(parts) == {**made, "calls": answer.calls, "invalid": answer.invalid_calls}
    check_nothing_is_lost(answer)
    return answer


def check_nothing_is_lost(answer: Answer) -> None:
    text = answer.text
    edges = [0, *(segment.end for segment in answer.segments)]
    assert [segment.start for segment in answer.segments] == edges[:-1]
    assert edges[-1] == len(text)
    content, reasoning = list(answer.content), answer.reasoning
    calls = iter(answer.calls)
    for segment in answer.segments:
        said = text[segment.start : segment.end]
        if segment.kind in ("content", "invalid"):
            assert answer.content[segment.place : segment.place + len(said)] == said
            content[segment.place : segment.place + len(said)] = [""] * len(said)
        elif segment.kind == "reasoning":
            assert said in reasoning
        elif segment.kind == "markup":
            assert not _SYNTAX.sub("", said).strip(" \n\t\r,;[]`\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0")
        else:
            check_call(said, next(calls)["function"])
    assert not "".join(content).strip("\n")


def check_call(written: str, function: dict[str, str]) -> None:
    """Each word of a call that is neither of its syntax nor escaped is in its name or its arguments."""
    json.dumps(function["arguments"]).encode()
    assert isinstance(json.loads(function["arguments"]), dict)
    if "\\" in written:
        return
    written = written[: len(written) - max(overlap(written, mark) for mark in (*MARKERS, "</function>"))]
    shown = (function["name"] + function["arguments"]).replace("\\", "")
    for word in re.findall(r"[^\W_]+", _SYNTAX.sub(" ", written)):
        assert word in shown or word in ("True", "False", "None", "null") or word.strip("0") in shown, word


_SYNTAX = re.compile(
    "|".join(
        [
            r"\[CALL_ID\]\s*\w*",
            r'"id":\s*("[^"]*"|null|\d+)|"type":\s*("[^"]*"|null)|"(?:name|arguments|parameters|function)"\s*:',
            r"functions\.|function(?=<｜tool▁sep｜>)|:\d+\s*(?=<\|tool_call_arg)|```(?:json|tool_calls?)?",
            r"</?(?:function|parameter)[=>]",
            *map(re.escape, sorted({*MARKERS, *CHANNELS}, key=len, reverse=True)),
            r"analysis|commentary|final|assistant|json|code|to=\S+",
        ]
    )
)
