"""Worlds are deterministic, their answers exact, and test worlds share nothing with training worlds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.pocket import phrases as wordings
from kv_memory.pocket.facts import UNKNOWN
from kv_memory.pocket.vocabulary import ENGLISH, HEADS, NOUNS, TEST_HEADS, TEST_NOUNS
from kv_memory.pocket.worlds import World, make_world

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
        "import json; from kv_memory.pocket.worlds import make_world; "
        "w = make_world(7, 600, 'test'); print(json.dumps([w.messages, w.tools, [p.question for p in w.probes]]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    world = make_world(7, 600, "test")
    assert json.loads(out) == [world.messages, world.tools, [probe.question for probe in world.probes]]


@settings(deadline=None, max_examples=60)
@given(seeds, sizes, st.sampled_from(["train", "test"]))
def test_probes_are_of_their_kind(seed: int, tokens: int, split: str) -> None:
    world = make_world(seed, tokens, split)  # type: ignore[arg-type]
    names = [message.get("tool_call_id", message["id"]) for message in world.messages]
    assert len(set(names)) == len(names)
    for probe in world.probes:
        assert probe.target in names
        without = readable(world, probe.target)
        match probe.kind:
            case "restore":
                assert probe.answer != probe.without and probe.without in without
                assert UNKNOWN not in (probe.answer, probe.without)
            case "unknown":
                assert probe.without == UNKNOWN
                assert probe.answer in readable(world) and probe.answer not in without
            case "keep":
                assert probe.answer == probe.without and probe.answer in without
            case "injection":
                assert probe.answer != probe.without and probe.answer in readable(world)
            case "binding":
                assert probe.answer != probe.without
        assert probe.answer == UNKNOWN or probe.answer in readable(world)


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
    assert kinds == {"restore", "unknown", "binding", "injection", "keep"}


@pytest.mark.parametrize("tokens", [500, 2000])
def test_length_is_about_what_was_asked(tokens: int) -> None:
    lengths = [len(readable(make_world(seed, tokens))) / 2.45 for seed in range(30)]
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


@pytest.mark.parametrize("name", ["questions", "statements", "updates", "references", "mentions", "orders"])
def test_held_out_sentences_are_not_in_training(name: str) -> None:
    def sentences(phrases: wordings.Phrases) -> set[str]:
        return {
            option for family in getattr(phrases, name) for slot in family for option in slot if option.count("{") > 0
        } - {"{key}", "{id}", "{noun} {id}"}

    train = sentences(wordings.phrases("train"))
    kept = sentences(wordings.phrases("test", held_out=True))
    assert kept - train
    # Where a family mixes known and kept slots, at least one of its slots is kept.
    for family in getattr(wordings.phrases("test", held_out=True), name):
        assert any(not set(slot) & {o for f in getattr(wordings.phrases("train"), name) for s in f for o in s}
                   for slot in family)  # fmt: skip
