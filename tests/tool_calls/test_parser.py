"""Whatever a model writes, and in whatever pieces it comes: one reading, nothing lost, nothing raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.conversation.tool_calls.formats import AROUND, FORMATS, THOUGHTS, Known
from kv_memory.conversation.tool_calls.parser import AnswerParser, read_message
from kv_memory.engines.markers import CHANNEL, MARKERS
from tests.tool_calls import answers
from tests.tool_calls.answers import ALL, TOOLS, Args, hermes, pieces, plain, read

WEATHER = {"city": 'Bad "Ems"', "days": 3}
GOOD = hermes("get_weather", {"city": "Rome"})
CHANNELS: Known = frozenset([CHANNEL])


def calls_in(text: str, known: Known = ALL, tools: Any = TOOLS, head: str = "") -> list[tuple[str, Any]]:
    answer, _ = read([text], known, tools, head)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in answer.calls]


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(answers.ANSWERS, answers.CUTS, answers.KNOWN, st.sampled_from([None, TOOLS]), answers.HEADS)
def test_it_is_read_the_same_whole_and_in_pieces_and_nothing_is_lost(
    text: str, cuts: list[int], known: Known, tools: Any, head: str
) -> None:
    answers.check(text, cuts, known, tools, head)


@pytest.mark.parametrize("form", answers.MARKED)
@pytest.mark.parametrize("args", [WEATHER, {}, {"days": -1, "x": "</tool_call> [TOOL_CALLS] \n"}])
def test_a_call_of_each_format(form: Callable[[str, Args], str], args: Args) -> None:
    text = f"I look.\n\n{form('get_weather', args)}\n"
    answer, _ = read([text])
    expected = ("get_weather", args)
    assert calls_in(text) == [expected] * (2 if form in answers.TWICE else 1)
    assert (answer.content, answer.invalid_calls) == ("I look.", [])
    letters, _ = read(list(text))
    assert letters.message() == answer.message()


@pytest.mark.parametrize("form", answers.MARKED)
def test_a_call_that_was_cut_off_is_none(form: Callable[[str, Args], str]) -> None:
    """Wherever the text ends: either all that was to be said is there, or there is no call."""
    text = form("get_weather", {"city": "Rome", "days": 12})
    first = [("get_weather", {"city": "Rome", "days": 12})]
    for end in range(len(text)):
        assert calls_in(text[:end]) in ([], first, first * 2)
    answer, _ = read([text[: len(text) // 3]])
    assert answer.content == text[: len(text) // 3]


@pytest.mark.parametrize("form", answers.MARKED)
def test_one_that_was_cut_off_does_not_take_a_good_one_with_it(form: Callable[[str, Args], str]) -> None:
    good, cut = form("get_weather", {"days": 1}), form("get_order", {"city": "Rome"})
    text = f"{good}\n{cut[: cut.index('Rome')]}"
    answer, _ = read([text])
    assert [call["function"]["name"] for call in answer.calls] == ["get_weather"] * (2 if form in answers.TWICE else 1)
    (invalid,) = answer.invalid_calls
    assert text.endswith(invalid.text)
    assert invalid.text in answer.content
    assert "cut off" in invalid.error or "no end" in invalid.error or "not JSON" in invalid.error


@pytest.mark.parametrize(
    ("written", "args"),
    [
        ('{"arguments": {"days": 1}, "name": "get_weather"}', {"days": 1}),
        ('{"name": "get_weather", "parameters": {"days": 1}}', {"days": 1}),
        ('{"name": "get_weather", "arguments": null}', {}),
        ('{"name": "get_weather", "arguments": ""}', {}),
        ('{"name": "get_weather", "arguments": "{\\"days\\": 1}"}', {"days": 1}),
        ('{"name": "get_weather"}', {}),
        ('{"type": "function", "id": "a", "function": {"name": "get_weather", "arguments": {"days": 1}}}', {"days": 1}),
        ('{"name": "get_weather", "arguments": {"city": "two\nlines"}}', {"city": "two\nlines"}),
        ('{"name": "get_weather", "arguments": {"city": "\\ud800"}}', {"city": "\ud800"}),
    ],
)
def test_ways_to_write_the_json_of_a_call(written: str, args: Args) -> None:
    assert calls_in(f"<tool_call>{written}</tool_call>") == [("get_weather", args)]
    assert calls_in(written) == [("get_weather", args)]
    (call,) = read([written])[0].calls
    call["function"]["arguments"].encode()


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "words"}',
        '{"name": "f", "arguments": true}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": -Infinity}}',
        '{"name": "f", "arguments": {"x": 1e999}}',
        '{"name": "f", "arguments": {"x": %s}}' % ("9" * 5000),
        '{"name": "f", "arguments": {"x": 1, "x": 2}}',
        '{"name": "f", "arguments": {}, "parameters": {}}',
        '{"name": "f", "city": "Rome"}',
        '{"name": "f", "arguments": {"x": %s}}' % ("[" * 80 + "]" * 80),
        '{"name": "f", "arguments": ' + "[" * 1500,
        '{"name": "\\ud800"}',
        '{"name": ""}',
        '{"arguments": {}}',
        "words",
        "",
    ],
)
def test_what_is_no_call_stays_in_the_content_and_is_named(written: str) -> None:
    text = f"So: <tool_call>{written}</tool_call>"
    answer, _ = read([text])
    assert (answer.content, answer.calls) == (text, [])
    assert [invalid.text for invalid in answer.invalid_calls] == [text.removeprefix("So: ")]


def test_two_calls_in_a_list_and_text_after_them() -> None:
    listed = f"<tool_call>[{plain('get_weather', {})}, {plain('get_order', {})}]</tool_call>"
    answer, _ = read([f"First.\n{listed}\nDone."])
    assert calls_in(listed) == [("get_weather", {}), ("get_order", {})]
    assert answer.content == "First.\nDone."


@pytest.mark.parametrize("begun", ["<think>", "[THINK]"])
def test_a_call_in_thoughts_is_none(begun: str) -> None:
    closed = THOUGHTS[begun]
    assert calls_in(f"{begun}{GOOD}") == []
    assert calls_in(f"{begun}{GOOD}{closed}") == []
    assert calls_in(f"{GOOD}{closed}", head=f"{begun}\n") == []
    assert calls_in(f"{begun}{GOOD}{closed}\n{GOOD}") == [("get_weather", {"city": "Rome"})]
    assert calls_in(f"{begun}\n{closed}\n{plain('get_order', {})}") == [("get_order", {})]


@pytest.mark.parametrize(
    "written",
    [
        "{call}",
        "\n {call}\n",
        "[{call}]",
        "```json\n{call}\n```",
        "```\n{call}\n```\n",
    ],
)
def test_an_answer_that_is_nothing_but_a_call_of_an_offered_tool(written: str) -> None:
    def said(name: str) -> str:
        return written.replace("{call}", plain(name, {"days": 1}))

    assert calls_in(said("get_order")) == [("get_order", {"days": 1})]
    for text, tools in ((said("other"), TOOLS), (said("get_order"), None), (f"So: {said('get_order')}", TOOLS)):
        answer, _ = read([text], tools=tools)
        assert (answer.content, answer.calls, answer.invalid_calls) == (text, [], [])


def test_several_lines_of_calls_without_markers() -> None:
    lines = f"{plain('get_order', {})}\n{plain('get_weather', {'days': 2}, 'parameters')}"
    assert calls_in(lines) == [("get_order", {}), ("get_weather", {"days": 2})]
    assert calls_in(lines + "\nThat is all.") == []
    assert calls_in(lines.replace("get_weather", "other")) == []


@pytest.mark.parametrize("form", [form for form in answers.MARKED if form is not answers.custom])
def test_a_marker_that_means_nothing_to_the_model_is_text(form: Callable[[str, Args], str]) -> None:
    text = form("get_weather", {"days": 1})
    if not text.startswith("<tool_call>"):
        answer, _ = read([text], frozenset())
        assert (answer.content, answer.calls) == (text, [])


def test_function_tags_count_where_the_template_has_them_or_an_offered_tool_is_named() -> None:
    known, unknown = answers.custom("other", {}), answers.custom("get_order", {})
    assert calls_in(known, frozenset(["<function="])) == [("other", {})]
    assert calls_in(known, frozenset()) == []
    assert calls_in(unknown, frozenset()) == [("get_order", {})]


def test_values_written_as_text_have_the_types_of_the_tools_schema() -> None:
    schema = {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "b": {"type": "boolean"},
        "o": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        "s": {"type": "string"},
        "l": {"type": ["array", "null"]},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": schema}}}]
    given = {"n": "3", "x": "2.5", "b": "True", "o": '{"a": [1]}', "s": "3", "l": "null", "more": "4"}
    expected = {"n": 3, "x": 2.5, "b": True, "o": {"a": [1]}, "s": "3", "l": None, "more": "4"}
    for form in (answers.coder, answers.glm):
        assert calls_in(form("f", given), tools=tools) == [("f", expected)]
        assert calls_in(form("f", {"n": "three", "b": "1"}), tools=tools) == [("f", {"n": "three", "b": "1"})]


def test_channels_are_thoughts_calls_and_what_it_says() -> None:
    thought = "<|channel|>analysis<|message|>Hm, <tool_call>.<|end|>"
    final = "<|start|>assistant<|channel|>final<|message|>It is 3. \n"
    answer, _ = read([thought + final], CHANNELS)
    assert (answer.content, answer.reasoning, answer.calls) == ("It is 3. \n", "Hm, <tool_call>.", [])
    for call in (
        "<|start|>assistant" + answers.channel_call("get_order", WEATHER),
        "<|start|>assistant to=functions.get_order<|channel|>commentary json<|message|>" + json.dumps(WEATHER),
    ):
        answer, _ = read(list(thought + call), CHANNELS)
        assert (answer.content, answer.reasoning) == ("", "Hm, <tool_call>.")
        assert calls_in(thought + call, CHANNELS) == [("get_order", WEATHER)]
    cut = answers.channel_call("get_order", {"city": "Rome"}).partition("Ro")[0]
    answer, _ = read([cut], CHANNELS)
    assert (answer.content, answer.calls, len(answer.invalid_calls)) == (cut, [], 1)
    assert read(["Just words."], CHANNELS)[0].content == "Just words."


def test_a_call_after_the_final_answer_is_invalid() -> None:
    """The template refuses a message with thoughts, content and calls."""
    final, call = "<|channel|>final<|message|>Done.<|end|>", answers.channel_call("get_order", {})
    answer, _ = read([f"{final}<|start|>assistant{call}"], CHANNELS)
    assert (answer.calls, [invalid.name for invalid in answer.invalid_calls]) == ([], ["get_order"])
    answer, _ = read([f"{call}<|start|>assistant{final}"], CHANNELS)
    assert (answer.content, answer.reasoning, len(answer.calls)) == ("", "Done.", 1)


@pytest.mark.parametrize("closed", ["", "</tool_call> "])
def test_words_after_a_marker_before_calls_are_not_lost(closed: str) -> None:
    begun = "<|tool_calls_section_begin|>"
    text = f"{begun} Words. {closed}"
    assert read([text + GOOD])[0].content == text.rstrip()
    assert read([f"{begun}\n{GOOD}"])[0].content == ""


def test_words_come_at_once_and_a_call_when_it_is_complete() -> None:
    text = f"Let me look. {GOOD}"
    seen = ""
    parser = AnswerParser("x", TOOLS, ALL)
    for piece in pieces(text, range(len(text))):
        for part in parser.push(piece):
            assert part.kind == "content" or seen + piece == text
        seen += piece
        said = min(len(seen), len("Let me look."))
        assert parser.answer.content == text[:said].rstrip()
    assert parser.answer.calls


def test_no_marker_begins_another_and_decoding_keeps_all() -> None:
    marks = {*(form.open for form in FORMATS), *(form.close for form in FORMATS if form.close), *THOUGHTS}
    marks |= {mark for around in AROUND.values() for mark in around}
    assert not [(a, b) for a in marks for b in marks if a != b and b.startswith(a)]
    assert marks - {"<function=", "</function>"} <= set(MARKERS)


def test_without_a_model_calls_are_hermes() -> None:
    assert read_message(GOOD)["tool_calls"][0]["function"]["name"] == "get_weather"
    assert "tool_calls" not in read_message(answers.mistral("f", {}))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get", "arguments": {"q": "a"}}',
        '<tool_call>\n{"name": "get", "arguments": {"q": "a"}}\n</tool_call>',
        '[TOOL_CALLS][{"name": "get", "arguments": {"q": "a"}}]',
        "<function=get>{}</function>",
    ],
)
def test_an_answer_that_may_call_no_tool_is_content(text: str) -> None:
    tools = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}]
    parser = AnswerParser("a", tools, frozenset(["[TOOL_CALLS]", "<function="]), calls=False)
    parser.push(text)
    parser.finish()
    assert parser.answer.message() == {"role": "assistant", "content": text}
    assert not parser.answer.invalid_calls
