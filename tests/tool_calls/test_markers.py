"""Which markers mean something to a model, and which special tokens stay in decoded text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_memory.conversation.tool_calls.known import known_markers
from kv_memory.engines.markers import CHANNEL
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.testing.chat import CHATML, tiny_tokenizer
from tests.tool_calls.answers import TOOLS, read


def tokenizer_of(special: list[str], template: str = CHATML) -> HFTokenizer:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(special, special_tokens=True)
    return HFTokenizer(tokenizer)


def test_decoding_keeps_the_special_tokens_that_mark_calls_and_leaves_the_others_out() -> None:
    tokenizer = tokenizer_of(["[TOOL_CALLS]", "<|end|>"])
    ids, _ = tokenizer.encode("<|im_start|>a [TOOL_CALLS]b<tool_call><|end|><|im_end|>", special=True)
    assert tokenizer.decode(ids) == "a [TOOL_CALLS]b<tool_call>"


def test_an_end_is_kept_only_beside_channels() -> None:
    tokenizer = tokenizer_of(["<|channel|>", "<|end|>"])
    ids, _ = tokenizer.encode("<|im_start|><|channel|>a<|end|>", special=True)
    assert tokenizer.decode(ids) == "<|channel|>a<|end|>"


def test_markers_are_known_from_the_vocabulary_and_from_the_template() -> None:
    assert known_markers(tokenizer_of([])) == {"<tool_call>"}
    assert known_markers(tokenizer_of(["[TOOL_CALLS]", CHANNEL])) == {"<tool_call>", "[TOOL_CALLS]", CHANNEL}
    template = CHATML.replace("<tool_call>", "<|python_tag|>")
    assert "<|python_tag|>" in known_markers(tokenizer_of([], template))


CALL = {"name": "get_weather", "arguments": {"city": "Bad Ems", "days": 3}}
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<｜end▁of▁sentence｜>",
    "<|call|>",
)


@pytest.mark.parametrize(
    "name",
    [
        "Qwen-Qwen3-0.6B",
        "Qwen3-Coder",
        "GLM-4.6",
        "ByteDance-Seed-OSS",
        "meta-llama-Llama-3.1-8B-Instruct",
        "meetkai-functionary-medium-v3.1",
        "mistralai-Mistral-Nemo-Instruct-2407",
        "Mistral-Small-3.2-24B-Instruct-2506",
        "deepseek-ai-DeepSeek-V3.1",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        "moonshotai-Kimi-K2",
        "openai-gpt-oss-120b",
    ],
)
def test_a_call_is_read_as_the_real_template_writes_it(name: str, data: Callable[[str], Path]) -> None:
    tokenizer = tokenizer_of([], data(f"templates/{name}.jinja").read_text(encoding="utf-8"))
    call: Any = {"type": "function", "id": "abcdefghi", "function": CALL}
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "description": "d"}}]
    for parameter in tools[0]["function"]["parameters"]["properties"].values():
        parameter["description"] = "d"
    asked: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
    head = tokenizer.render(asked, tools, True)
    whole = tokenizer.render([*asked, {"role": "assistant", "content": "", "tool_calls": [call]}], tools, False)
    shared = next((i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b), min(len(head), len(whole)))
    said = whole[len(whole[:shared].rstrip("<")) :]
    said = said[: min((said.index(end) for end in ENDS if end in said), default=len(said))]
    answer, _ = read(list(said), known_markers(tokenizer), tools, head)
    (found,) = answer.calls
    assert (found["function"]["name"], json.loads(found["function"]["arguments"])) == tuple(CALL.values())
    assert not re.sub(r"</?think>|</?seed:\w+>", "", answer.content).strip()
