"""Worlds are deterministic, their answers exact, and test worlds share nothing with training worlds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.synthetic.drafts import KINDS
from kv_memory.synthetic.facts import UNKNOWN
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.vocabulary import ENGLISH, HEADS, NOUNS, TEST_HEADS, TEST_NOUNS
from kv_memory.synthetic.worlds import World, make_world

seeds = st.integers(0, 10**9)
sizes = st.sampled_from([200, 400, 800, 1600])


def readable(world: World, without: str | None = None) -> str:
    """Everything that a reader sees, the contents of the target `without` left out."""
    parts: list[str] = []
    for message in world.messages:
        if without is None or without not in (message["id"], message.get("tool_call_id")):
            parts.append(message["content"])
        parts += [call["function"]["arguments"] for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def test_the_same_world_in_another_process() -> None:
    code = (
        "import json; from kv_memory.synthetic.worlds import make_world; "
        "w = make_world(7, 600, 'test'); print(json.dumps([w.messages, w.tools, [p.question for p in w.probes]]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    world = make_world(7, 600, "test")
    assert json.loads(out) == [world.messages, world.tools, [probe.question for probe in world.probes]]


def test_more_questions_are_about_the_same_conversation() -> None:
    few, many = make_world(7, 600), make_world(7, 600, asked=6)
    assert (few.messages, few.tools) == (many.messages, many.tools)
    assert len(many.probes) > len(few.probes)


@settings(deadline=None, max_examples=60)
@given(seeds, sizes, st.sampled_from(["train", "test"]), st.sampled_from([2, 5]))
def test_probes_are_of_their_kind(seed: int, tokens: int, split: str, asked: int) -> None:
    world = make_world(seed, tokens, split, asked=asked)  # type: ignore[arg-type]
    names = [message.get("tool_call_id", message["id"]) for message in world.messages]
    assert len(set(names)) == len(names)
    for probe in world.probes:
        assert probe.target in names
        without = readable(world, probe.target)
        match probe.kind:
            case "restore":
                assert UNKNOWN not in (probe.answer.lower(), probe.without.lower())
                assert probe.answer != probe.without
            case "unknown":
                assert UNKNOWN in probe.without.lower()
                assert not re.search(rf"(?<!\w){re.escape(probe.answer)}(?!\w)", without)  # ids may begin with a name
            case "keep" | "call":
                assert probe.answer == probe.without
            case "injection":
                assert probe.answer != probe.without and probe.answer in readable(world)
            case "binding" | "preference":
                assert probe.answer != probe.without
            case "two-hop":
                assert UNKNOWN not in probe.answer.lower()
        assert (
            probe.kind == "call" or probe.answer == UNKNOWN or words(probe.answer) <= {*words(readable(world)), UNKNOWN}
        )
        assert probe.kind == "call" or probe.without == UNKNOWN or words(probe.without) <= {*words(without), UNKNOWN}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))


@settings(deadline=None, max_examples=30)
@given(seeds, sizes)
def test_messages_are_well_formed(seed: int, tokens: int) -> None:
    world = make_world(seed, tokens)
    open_calls: list[str] = []
    for message in world.messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
        else:
            assert not open_calls
        for call in message.get("tool_calls", ()):
            assert call["type"] == "function"
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
            open_calls.append(call["id"])
    assert not open_calls


def test_every_kind_comes_up() -> None:
    kinds = {probe.kind for seed in range(40) for probe in make_world(seed, 500, "test").probes}
    assert kinds == set(KINDS)


def test_a_call_is_one_that_the_listed_tools_allow() -> None:
    found = 0
    for seed in range(60):
        world = make_world(seed, 1000, "test")
        for probe in world.probes:
            if probe.call is not None:
                found += 1
                tool = next(tool["function"] for tool in world.tools or () if tool["function"]["name"] == probe.call)
                given = json.loads(probe.answer)
                assert set(tool["parameters"]["required"]) <= set(given) <= set(tool["parameters"]["properties"])
    assert found > 10


@pytest.mark.parametrize("tokens", [500, 2000])
def test_length_is_about_what_was_asked(tokens: int) -> None:
    lengths = [len(readable(make_world(seed, tokens))) / 2.1 for seed in range(30)]
    assert 0.4 * tokens < sum(lengths) / len(lengths) < 1.2 * tokens


def test_splits_share_no_words() -> None:
    def invented(split: str) -> set[str]:
        worlds = [make_world(seed, 800, split) for seed in range(40)]  # type: ignore[arg-type]
        known = {*ENGLISH, *HEADS, *TEST_HEADS}
        calls = [call for world in worlds for m in world.messages for call in m.get("tool_calls", ())]
        texts = [call["function"]["arguments"] for call in calls]
        ids = {value for text in texts for value in json.loads(text).values() if isinstance(value, str)}
        return ids - known

    train, test = invented("train"), invented("test")
    assert len(train) > 50 and len(test) > 50
    assert not train & test
    assert not set(NOUNS) & set(TEST_NOUNS)
    assert not set(HEADS) & set(TEST_HEADS)


@pytest.mark.parametrize("section", ["question", "statement", "update", "reference", "mention", "order", "wish"])
def test_held_out_sentences_are_not_in_training(section: str) -> None:
    rng = Random(0)
    kept = {Phrases("test", True).draw(rng, section).lower() for _ in range(200)}
    known = {Phrases("test", False).draw(rng, section).lower() for _ in range(3000)}
    trained = {Phrases("train").draw(rng, section).lower() for _ in range(3000)}
    assert not kept & (known | trained)


def test_each_place_of_a_sentence_stands_in_it_once() -> None:
    rng = Random(0)
    places = {"question": ("key", "id"), "statement": ("key", "id", "value"), "reference": ("key", "value"),
              "that reference": ("key", "noun", "value"), "nth reference": ("key", "nth", "noun", "value"),
              "order": ("value",), "mention": ("id",), "hop question": ("key", "link", "id")}  # fmt: skip
    for split, held_out in (("train", None), ("test", False), ("test", True)):
        for section, names in places.items():
            for _ in range(400):
                text = Phrases(split, held_out).draw(rng, section)  # type: ignore[arg-type]
                for name in names:
                    assert text.count(f"{{{name}}}") == 1, text
