"""Tokens are counted as the model reads them, and without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv_memory import ConversationError, Memory, ModelError, TokenCounter
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.pocket import model_path
from kv_memory.testing.chat import CHATML, tiny_model, tiny_tokenizer
from tests import tiktoken_files
from tests.data import TEMPLATES
from tests.tiny import STRICT, THINKING

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_price",
            "description": "Get the price <|im_end|> of a product",
            "parameters": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]},
        },
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_price", "arguments": '{"sku": "A <tool_call>"}'}}
SIMPLE: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello <|im_end|> there"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "Und dann? \u00fc \U0001f642"},
]
CALLED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The price?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"price": 4} </tool_response>'},
]
OPEN = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}
{%- if not (loop.last and add_generation_prompt) %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"""
"""A template that leaves the last turn open before an answer."""
REAL = ("Qwen-Qwen3-0.6B", "moonshotai-Kimi-K2", "meta-llama-Llama-3.1-8B-Instruct", "GLM-4.6")


def read(memory: Memory, messages: list[dict[str, Any]], tools: Any = None) -> int:
    """The number of tokens that a new session reads before it answers."""
    usage = memory.session("count").chat(messages, tools, max_tokens=1).usage
    memory.delete_session("count")
    assert usage.reused == 0
    return usage.prefilled


@pytest.fixture(scope="module")
def pocket() -> Iterator[Memory]:
    yield Memory(heal="never")


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("messages", [SIMPLE, CALLED], ids=["simple", "called"])
def test_the_count_is_what_the_pocket_model_reads(pocket: Memory, messages: list[dict[str, Any]], tools: Any) -> None:
    counted = pocket.count_tokens(messages, tools)
    assert counted == read(pocket, messages, tools)
    assert TokenCounter().count_tokens(messages, tools) == counted
    assert pocket.sessions() == []


def test_a_conversation_that_grows_is_counted_whole(pocket: Memory) -> None:
    session = pocket.session("grows")
    reply = session.chat(SIMPLE, max_tokens=4)
    more = [*SIMPLE, {"role": "assistant", "content": "Then what"}, {"role": "user", "content": "And?"}]
    usage = session.chat(more, max_tokens=1).usage
    assert reply.usage.reused == 0 < usage.reused
    assert usage.reused + usage.prefilled == pocket.count_tokens(more)
    pocket.delete_session("grows")


def test_without_an_answer_it_is_what_prefill_reads(pocket: Memory) -> None:
    counted = pocket.count_tokens(SIMPLE, answer=False)
    assert pocket.session("prefill").prefill(SIMPLE).prefilled == counted < pocket.count_tokens(SIMPLE)
    pocket.delete_session("prefill")


def _template(name: str) -> str:
    known = {"chatml": CHATML, "strict": STRICT, "thinking": THINKING, "open": OPEN}
    if name in known:
        return known[name]
    path = TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path.read_text("utf-8")


@pytest.mark.parametrize("name", ["chatml", "strict", "thinking", "open", *REAL])
def test_the_count_is_what_is_read_with_other_templates(name: str) -> None:
    memory = Memory(TransformersEngine(tiny_model(max_positions=8192), tiny_tokenizer(_template(name))), heal="never")
    assert memory.count_tokens(SIMPLE) == read(memory, SIMPLE)
    if name in REAL:
        assert memory.count_tokens(CALLED, TOOLS) == read(memory, CALLED, TOOLS)


def test_a_directory_without_weights_is_enough(tmp_path: Path) -> None:
    tiny_model().config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    counter = TokenCounter(tmp_path)
    memory = Memory(TransformersEngine(tiny_model(), tiny_tokenizer()), heal="never")
    assert counter.count_tokens(CALLED, TOOLS) == read(memory, CALLED, TOOLS)
    assert counter.token_ids("a<|im_end|>") == memory.engine.tokenizer.encode("a<|im_end|>", special=False)[0]
    with pytest.raises(ModelError):
        Memory(tmp_path)


def test_a_tiktoken_file_is_counted(tmp_path: Path) -> None:
    counter = TokenCounter(tiktoken_files.write_kimi(tmp_path / "k"))
    assert counter.token_ids("the") == [tiktoken_files.ranks()[b"the"]]
    assert counter.count_tokens(SIMPLE) > 20


def test_a_ready_engine_lends_its_tokenizer(pocket: Memory) -> None:
    assert TokenCounter(pocket.engine).count_tokens(SIMPLE) == pocket.count_tokens(SIMPLE)
    assert TokenCounter(model_path()).token_ids("abc") == TokenCounter(pocket.engine).token_ids("abc")


def test_what_cannot_be_counted_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        TokenCounter(tmp_path / "none")
    with pytest.raises(ModelError, match=r"no config.json"):
        TokenCounter(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        TokenCounter(tmp_path / "none.gguf")
    with pytest.raises(TypeError, match=r"^model is a model directory, a hub id, a \.gguf file or .*; got 3"):
        TokenCounter(3)  # type: ignore[arg-type]
    with pytest.raises(ConversationError, match="empty"):
        TokenCounter().count_tokens([])
