from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kv_memory import Memory
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import UnsupportedOperationError
from kv_memory.pocket import model_path
from langchain_kv_memory.constrain import Grammars, repeats

from ..gguf_models import tiny_gguf

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


@pytest.fixture(scope="module", params=["hugging face", "llama.cpp, bytes", "llama.cpp, sentencepiece"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is asked of an engine: its name and its tokenizer, of each kind."""
    if request.param == "hugging face":
        tokenizer: Any = HFTokenizer(AutoTokenizer.from_pretrained(model_path()))
    else:
        tokenizer = Memory(tiny_gguf(tmp_path_factory, request.param)).engine.tokenizer
    return SimpleNamespace(name="some model", tokenizer=tokenizer, size=len(tokenizer.token_table().written))


def going_on(engine: Any, text: str) -> list[int]:
    """Ids of text that goes on, without the space that some tokenizers put before a text."""
    ids: list[int] = engine.tokenizer.encode(text, special=True)[0]
    return ids if engine.tokenizer.decode(ids[:1]).strip(" ") or text[0] == " " else ids[1:]


def say(engine: Any, mask: Any, seed: int, tokens: int, *, closing: bool = False) -> str:
    """What a model says that picks any allowed token, and ends when it may. `closing`: it ends what it can, mostly."""
    draw = random.Random(seed)
    ends = {i for i, text in enumerate(engine.tokenizer.token_table().written) if text and set(text) <= set(b'"}]')}
    said: list[int] = []
    for _ in range(tokens):
        allowed = mask(said, torch.zeros(engine.size)).isfinite().nonzero().flatten().tolist()
        preferred = [i for i in allowed if i in ends] if closing and draw.random() < 0.8 else []
        token = draw.choice(preferred or allowed)
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
    from kv_memory.conversation.tool_calls.parser import read_message

    said = read_message(say(engine, Grammars(engine).answer(TOOLS, None, 200), seed, 200, closing=True))
    (call,) = said["tool_calls"]
    assert call["function"]["name"] in ('say "hi"', "now")
    assert isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.parametrize("schema", [None, SCHEMA])
def test_a_call_is_not_closed_before_the_model_closes_it(engine: Any, schema: Any) -> None:
    said = engine.tokenizer.encode("<tool_call>", special=True)[0]
    said += going_on(engine, '\n{"name": "say \\"hi\\"", "arguments": {"name": "W-')
    mask = Grammars(engine).answer(TOOLS, schema, len(said) + 1)
    for end in range(len(said) + 1):
        logits = mask(said[:end], torch.zeros(engine.size))
    assert logits.isfinite().sum() > 100


def test_a_call_that_nobody_runs_is_closed_in_time(engine: Any) -> None:
    said = say(engine, Grammars(engine).answer(TOOLS, None, 200, close_calls=True), 3, 200)
    assert said.endswith("</tool_call>")


def test_with_tools_and_a_schema_it_is_one_or_the_other(engine: Any) -> None:
    said = {say(engine, Grammars(engine).answer(TOOLS, SCHEMA, 200), seed, 200, closing=True)[0] for seed in range(12)}
    assert said == {"<", "{"}


def test_words_are_free_and_a_call_is_not(engine: Any) -> None:
    grammars = Grammars(engine)
    mask = grammars.calls(TOOLS)
    assert mask is not None
    logits = torch.zeros(engine.size)
    words, _ = engine.tokenizer.encode("Let me see. ", special=True)
    assert mask(words, logits).isfinite().all()
    said = [*words, grammars.open_id]
    assert not mask(said, logits).isfinite().all()
    said += going_on(engine, '\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert mask(said, logits).isfinite().all()


def test_without_tools_no_call_is_begun(engine: Any) -> None:
    mask = Grammars(engine).no_calls()
    assert mask is not None
    barred = (~mask([], torch.zeros(engine.size)).isfinite()).nonzero().flatten().tolist()
    assert barred == engine.tokenizer.encode("<tool_call>", special=True)[0]


def test_a_schema_that_cannot_constrain_is_an_error_where_it_must(engine: Any) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such-format"}}}
    with pytest.raises(ValueError, match="cannot constrain"):
        Grammars(engine).answer([], odd, 50)
    assert Grammars(engine).calls([{"type": "function", "function": {"name": "f", "parameters": odd}}]) is None


def test_structure_is_never_part_of_a_string(engine: Any) -> None:
    mask = Grammars(engine).answer([], {"type": "string"}, 100)
    table = engine.tokenizer.token_table()
    quote = table.written.index(b'"')
    allowed = mask([quote], torch.zeros(engine.size)).isfinite().nonzero().flatten().tolist()
    assert table.written.index(b"a") in allowed
    assert not set(allowed) & table.structure


def test_tokens_that_write_no_bytes_of_their_own_are_an_error_where_they_must() -> None:
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    hugging_face = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", eos_token="[UNK]")
    grammars = Grammars(SimpleNamespace(name="other", tokenizer=HFTokenizer(hugging_face)))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperationError, match="do not write bytes of their own"):
        grammars.answer([], SCHEMA, 50)


def test_without_a_token_for_calls_an_answer_is_free() -> None:
    tokenizer = SimpleNamespace(eos_ids=frozenset([1]), encode=lambda text, special: ([5, 6], [(0, 1), (1, 2)]))
    grammars = Grammars(SimpleNamespace(name="other", tokenizer=tokenizer))  # type: ignore[arg-type]
    assert grammars.no_calls() is None
    assert grammars.calls(TOOLS) is None


@pytest.mark.parametrize(
    ("said", "loops"),
    [
        ([1, 2, 3] * 8, True),
        ([9, 8, *[5] * 24], True),
        ([*range(12)] * 4, True),
        ([1, 2, 3] * 7, False),
        ([*range(13)] * 4, False),
        ([*[1, 2, 3] * 8, 4], False),
        ([], False),
    ],
)
def test_the_end_of_an_answer_that_repeats_itself_is_known(said: list[int], loops: bool) -> None:
    assert repeats(said) is loops
