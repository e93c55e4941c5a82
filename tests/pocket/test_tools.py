"""Tools are valid, a request says each argument of its one right call, and test tools are none of training's."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.conversation.tool_calls.parser import read_message
from kv_memory.synthetic.facts import Fact
from kv_memory.synthetic.records import facts, make_record, make_schema
from kv_memory.synthetic.tools.bank import Lines
from kv_memory.synthetic.tools.make import lookup_tool, make_tool, update_tool
from kv_memory.synthetic.tools.phrases import ToolPhrases, slip, tool_phrases
from kv_memory.synthetic.tools.schemas import Leaf, Parameter
from kv_memory.synthetic.tools.spelling import Spelling
from kv_memory.synthetic.tools.talk import NO_TOOL, remarks
from kv_memory.synthetic.tools.toolbox import Toolbox
from kv_memory.synthetic.tools.words import FLAGS, KNOWN, TEST_FLAGS, TEST_KNOWN, TEST_VERBS, VERBS, synonyms
from kv_memory.synthetic.values import Split, Values
from kv_memory.synthetic.vocabulary import ENGLISH

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict
}  # fmt: skip
splits: st.SearchStrategy[Split] = st.sampled_from(("train", "test"))
seeds = st.integers(0, 10**9)
held = st.sampled_from((None, False, True))


def box_of(seed: int, split: Split = "train", held_out: bool | None = None) -> Toolbox:
    return Toolbox(Values(Random(seed), split), 1 + seed % 6, held_out)


def check(schema: dict[str, Any], value: Any) -> None:
    """What JSON Schema asks of a value, as far as the tools use it."""
    kinds: Any = TYPES[schema["type"]]
    assert isinstance(value, kinds)
    assert schema["type"] == "boolean" or not isinstance(value, bool)
    assert value in schema.get("enum", [value])
    if schema["type"] == "object":
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        assert list(value) == [name for name in schema["properties"] if name in value]
        for name, inner in value.items():
            check(schema["properties"][name], inner)
    for inner in value if schema["type"] == "array" else ():
        check(schema["items"], inner)


def texts(value: Any) -> list[str]:
    """The values in a call that its request has to show."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [] if isinstance(value, bool) else [value if isinstance(value, str) else json.dumps(value)]


@settings(deadline=None)
@given(seeds, splits, held)
def test_calls_fit_their_schemas_and_requests_say_their_values(seed: int, split: Split, held_out: bool | None) -> None:
    box = box_of(seed, split, held_out)
    schemas = {tool["function"]["name"]: tool["function"] for tool in box.tools}
    assert len(schemas) == 1 + seed % 6
    for _ in range(5):
        request = box.request()
        check(schemas[request.name]["parameters"], request.arguments)
        assert all(text in request.text for text in texts(request.arguments))
        assert not re.search(r"\{\w+\}|  |<\w*\|", request.text)
        written = f'<tool_call>\n{{"name": "{request.name}", "arguments": {request.written}}}\n</tool_call>'
        (call,) = read_message(written)["tool_calls"]
        assert (call["function"]["name"], call["function"]["arguments"]) == (request.name, request.written)


@settings(deadline=None)
@given(seeds, splits)
def test_results_say_what_was_asked(seed: int, split: Split) -> None:
    box = box_of(seed, split)
    for _ in range(5):
        request = box.request()
        result = box.result(request.name, request.arguments)
        said = facts(result.record)
        shown = json.dumps(json.loads(result.content), ensure_ascii=False)
        assert result.record.id in shown and all(fact.value in shown for fact in said)
        if request.asked:
            assert Fact(result.record.id, request.asked, result.answer(request.asked)) in said


@settings(deadline=None)
@given(seeds, splits)
def test_tools_cannot_be_mistaken_and_schemas_are_sound(seed: int, split: Split) -> None:
    values = Values(Random(seed), split)
    tools = [make_tool(values) for _ in range(4)]
    assert all(tool.mistakable(tool) for tool in tools)
    for tool in Toolbox(values, 6).tools:
        assert tool["type"] == "function" and tool["function"]["description"]
        parameters = tool["function"]["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])
        assert all(part["type"] in TYPES for part in parameters["properties"].values())


def test_a_look_up_and_an_update_of_a_record() -> None:
    values = Values(Random(5), "train")
    record = make_record(values, make_schema(values, 4))
    box, id_field = Toolbox(values, 2), record.schema.id_field
    look_up, update = lookup_tool(record.schema), update_tool(values, record.schema)
    box.add(look_up)
    box.add(update)
    request = box.request(look_up.name, {id_field: record.id})
    assert request.arguments == {id_field: record.id} and record.id in request.text
    path = next(field.path for field in record.schema.fields if len(field.path) == 1)
    arguments = {id_field: record.id, path[0]: "new"}
    assert facts(box.result(update.name, arguments).record) == (Fact(record.id, path, "new"),)


def test_the_same_tools_and_requests_for_the_same_seed() -> None:
    def all_of(box: Toolbox) -> list[Any]:
        request = box.request()
        return [box.tools, request, box.result(request.name, request.arguments), box.chat(), box.cannot()]

    assert all_of(box_of(11)) == all_of(box_of(11))
    assert all_of(box_of(11)) != all_of(box_of(12))


def test_splits_share_no_tools() -> None:
    def names(split: Split) -> set[str]:
        return {tool["function"]["name"] for seed in range(300) for tool in box_of(seed, split).tools}

    assert not names("train") & names("test")
    known = {verb for group in VERBS for verb in group}
    kept = {verb for group in TEST_VERBS for verb in group}
    assert len(known) == sum(map(len, VERBS)) and not kept & (known | set(ENGLISH))
    assert not set(FLAGS) & set(TEST_FLAGS) and not set(KNOWN) & set(TEST_KNOWN)


def test_held_out_wordings_are_not_in_training() -> None:
    known, kept = tool_phrases("train"), tool_phrases("test", held_out=True)

    def flat(lines: Lines) -> set[str]:
        return {text for line in lines for text in line} - {""}

    for name, lines in known.parts.items():
        assert not flat(lines) & flat(kept.parts[name]), name
    for name, lines in kept.naturals.items():
        assert not flat(lines) & flat(known.naturals.get(name, ())), name
    for (reply, said), (other, held) in zip(remarks(False), remarks(True), strict=True):
        assert reply == other and not flat(said) & flat(held)

    def ways(phrases: ToolPhrases) -> set[tuple[str, str, str]]:
        return {(style.place, head, item) for style in phrases.styles for head in style.heads for item in style.items}

    assert not ways(known) & ways(kept)
    assert tool_phrases("test", held_out=False).parts == known.parts


def test_nothing_random_touches_what_a_wording_leaves_open() -> None:
    phrases = tool_phrases("test")
    texts = {text for lines in phrases.parts.values() for line in lines for text in line}
    texts |= {head for style in phrases.styles for head in style.heads if not style.items[0].lower().startswith("the ")}
    assert not [text for text in texts if re.search(r"\{w\} ?\{(?!w)|\{(?!w)\w+\} ?\{w", text)]
    for _ in range(200):
        assert "the {v} of" in slip(Random(_), "please take the {v} of our list")


@settings(deadline=None)
@given(seeds)
def test_random_words_touch_only_values_in_quotes_and_only_in_training(seed: int) -> None:
    assert not any(tool_phrases("test", held_out).loose for held_out in (None, False, True))
    values = Values(Random(seed), "train")
    loose = (Spelling(values, tool_phrases("train")) for _ in iter(int, 1))
    spelling = next(spelling for spelling in loose if spelling._loose)
    leaf = Leaf(("size",), Parameter("size", "word"), ("size", "size"))
    said = spelling.list(spelling.style(), [(leaf, "value")])
    assert re.search(r"([\"`'])value\1|“value”", said), said


def test_verbs_and_wordings_of_arguments_say_one_thing() -> None:
    said = [verb for group in (*VERBS, *TEST_VERBS) for verb in set(synonyms(group, None))]
    assert len(said) == len(set(said))
    naturals = tool_phrases("test").naturals
    for line in (*KNOWN, *TEST_KNOWN):
        ways: list[str] = []
        for part in line.partition(" | ")[2].split("; "):
            _, kind, *own = part.split(":", 2)
            key = f"{'enum' if ',' in kind else kind}: {''.join(own)}"
            if "," not in kind:  # the value says which it is
                ways += {*own, *(text for texts in naturals.get(key, ()) for text in texts)}
        assert len(ways) == len(set(ways)), (line, [way for way in ways if ways.count(way) > 1])


@pytest.mark.parametrize("held_out", [None, False, True])
def test_words_that_need_no_tool(held_out: bool | None) -> None:
    box = box_of(3, "test", held_out)
    replies = {box.chat()[1] for _ in range(300)}
    assert len(replies) > 10 and NO_TOOL not in replies
    nouns = {tool.noun for tool in box._tools.values()}
    for _ in range(20):
        text, reply = box.cannot()
        assert reply == NO_TOOL and not any(f" {noun} " in text for noun in nouns)
