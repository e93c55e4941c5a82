from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import UnsupportedOperationError
from kv_memory.pocket import model_path
from langchain_kv_memory.constrain import Grammars

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"enum": ["s", "m"]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "size", "tags"],
    "$defs": {"tag": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": 'say "hi"', "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture(scope="module")
def engine() -> Any:
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(model_path()))
    return SimpleNamespace(name="pocket", tokenizer=tokenizer)


def say(engine: Any, mask: Any, seed: int, tokens: int) -> str:
    """What a model says that picks any allowed token, and ends when it may."""
    draw = random.Random(seed)
    said: list[int] = []
    for _ in range(tokens):
        allowed = mask(said, torch.zeros(len(engine.tokenizer.hf))).isfinite().nonzero().flatten().tolist()
        token = draw.choice(allowed)
        if token in engine.tokenizer.eos_ids:
            return str(engine.tokenizer.decode(said))
        said.append(token)
    raise AssertionError(f"no end after {tokens} tokens: {engine.tokenizer.decode(said)!r}")


@pytest.mark.parametrize("seed", range(6))
def test_an_answer_keeps_to_its_schema_however_few_the_tokens(engine: Any, seed: int) -> None:
    said = json.loads(say(engine, Grammars(engine).answer([], SCHEMA, 160), seed, 160))
    assert set(said) <= set(SCHEMA["properties"])
    assert said["size"] in ("s", "m")
    assert all(set(tag) == {"n"} for tag in said["tags"])


@pytest.mark.parametrize("seed", range(6))
def test_a_forced_call_is_of_one_of_the_tools(engine: Any, seed: int) -> None:
    from kv_memory.sessions.reply import read_message

    said = read_message(say(engine, Grammars(engine).answer(TOOLS, None, 200), seed, 200))
    (call,) = said["tool_calls"]
    assert call["function"]["name"] in ('say "hi"', "now")
    assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_with_tools_and_a_schema_it_is_one_or_the_other(engine: Any) -> None:
    said = {say(engine, Grammars(engine).answer(TOOLS, SCHEMA, 200), seed, 200)[0] for seed in range(12)}
    assert said == {"<", "{"}


def test_words_are_free_and_a_call_is_not(engine: Any) -> None:
    grammars = Grammars(engine)
    mask = grammars.calls(TOOLS)
    assert mask is not None
    logits = torch.zeros(len(engine.tokenizer.hf))
    words, _ = engine.tokenizer.encode("Let me see. ", special=True)
    assert mask(words, logits).isfinite().all()
    said = [*words, grammars.open_id]
    assert not mask(said, logits).isfinite().all()
    said += engine.tokenizer.encode('\n{"name": "now", "arguments": {}}\n</tool_call>', special=True)[0]
    assert mask(said, logits).isfinite().all()


def test_without_tools_no_call_is_begun(engine: Any) -> None:
    mask = Grammars(engine).no_calls()
    assert mask is not None
    barred = (~mask([], torch.zeros(len(engine.tokenizer.hf))).isfinite()).nonzero().flatten().tolist()
    assert barred == [engine.tokenizer.hf.convert_tokens_to_ids("<tool_call>")]


def test_a_schema_that_cannot_constrain_is_an_error_where_it_must(engine: Any) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such-format"}}}
    with pytest.raises(ValueError, match="cannot constrain"):
        Grammars(engine).answer([], odd, 50)
    assert Grammars(engine).calls([{"type": "function", "function": {"name": "f", "parameters": odd}}]) is None


def test_an_engine_with_another_tokenizer_says_so() -> None:
    other = SimpleNamespace(name="other", tokenizer=SimpleNamespace(eos_ids=frozenset([1])))
    grammars = Grammars(other)  # type: ignore[arg-type]
    assert grammars.no_calls() is None
    assert grammars.calls(TOOLS) is None
    with pytest.raises(UnsupportedOperationError, match="other has no Hugging Face tokenizer"):
        grammars.answer([], SCHEMA, 50)
