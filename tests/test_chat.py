from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.messages import Cuts, parse_messages
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import ConversationError, ModelError
from kv_memory.testing.chat import CHATML, SPECIAL, STRUCTURE, tiny_tokenizer
from tests.tiny import STRICT, THINKING

TOKENIZERS = {"chatml": HFTokenizer(tiny_tokenizer(CHATML)), "strict": HFTokenizer(tiny_tokenizer(STRICT))}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "get", "arguments": '{"q": "a \\"b\\"", "n": 3}'},
}
AGENT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look it up."},
    {"role": "assistant", "content": "On it.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"price": 3}'},
    {"role": "tool", "tool_call_id": "c2", "content": "second"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [{"type": "function", "function": {"name": "get", "description": "Gets <|im_end|> things", "parameters": {}}}]


def text_of(tokenizer: HFTokenizer, pieces: list[Piece]) -> str:
    ids = [i for piece in pieces for i in piece.ids]
    return str(tokenizer.hf.decode(ids, skip_special_tokens=False))


def flat(messages: list[list[Piece]]) -> list[Piece]:
    return [piece for pieces in messages for piece in pieces]


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_encoded_text_is_what_the_template_writes(tools: Any) -> None:
    tokenizer = TOKENIZERS["chatml"]
    native = [
        {
            **m,
            "tool_calls": [
                {**CALL, "function": {"name": "get", "arguments": json.loads(CALL["function"]["arguments"])}}
            ],
        }
        if "tool_calls" in m
        else m
        for m in AGENT
    ]
    expected = tokenizer.hf.apply_chat_template(native, tools=tools, tokenize=False)
    assert text_of(tokenizer, flat(ChatFormat(tokenizer).encode(parse_messages(AGENT), tools))) == expected


def test_each_message_gets_its_own_scaffolding() -> None:
    tokenizer = TOKENIZERS["chatml"]
    encoded = ChatFormat(tokenizer).encode(parse_messages(AGENT))
    assert [text_of(tokenizer, pieces) for pieces in encoded] == [
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        "<|im_start|>user\nLook it up.<|im_end|>\n",
        '<|im_start|>assistant\nOn it.\n<tool_call>\n{"name": "get", "arguments": {"q": "a \\"b\\"", "n": 3}}\n'
        "</tool_call><|im_end|>\n",
        '<|im_start|>user\n<tool_response>\n{"price": 3}\n</tool_response>',
        "\n<tool_response>\nsecond\n</tool_response><|im_end|>\n",
        "<|im_start|>assistant\nIt is 3.<|im_end|>\n",
    ]


def test_a_tool_call_is_one_piece_as_the_model_would_write_it() -> None:
    tokenizer = TOKENIZERS["chatml"]
    calls = [p for p in flat(ChatFormat(tokenizer).encode(parse_messages(AGENT))) if p.kind == "call"]
    assert [text_of(tokenizer, [p]) for p in calls] == ['{"name": "get", "arguments": {"q": "a \\"b\\"", "n": 3}}']


def test_a_strict_template_gets_what_it_refuses_as_text() -> None:
    tokenizer = TOKENIZERS["strict"]
    encoded = ChatFormat(tokenizer).encode(parse_messages(AGENT))
    assert text_of(tokenizer, flat(encoded)) == (
        "<|endoftext|><|im_start|>user\nBe brief.\n\nLook it up.<|im_end|>\n"
        '<|im_start|>assistant\nOn it.\n<tool_call>\n{"name": "get", "arguments": {"q": "a \\"b\\"", "n": 3}}\n'
        "</tool_call><|im_end|>\n"
        '<|im_start|>user\n<tool_response>\n{"price": 3}\n</tool_response>\n\n'
        "<tool_response>\nsecond\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 3.<|im_end|>\n"
    )
    assert ["".join(text_of(tokenizer, [p]) for p in m if p.kind == "content") for m in encoded] == [
        m["content"] for m in AGENT
    ]


def test_text_around_contents_that_a_template_trims_is_trimmed() -> None:
    tokenizer = TOKENIZERS["strict"]
    encoded = ChatFormat(tokenizer).encode(parse_messages([{"role": "user", "content": "  hi \n"}]))
    assert text_of(tokenizer, flat(encoded)) == "<|endoftext|><|im_start|>user\nhi<|im_end|>\n"


def test_an_earlier_assistant_turn_keeps_its_bounds_under_a_template_that_is_not_prefix_stable() -> None:
    tokenizer = HFTokenizer(tiny_tokenizer(THINKING))
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    encoded = ChatFormat(tokenizer).encode(parse_messages(said))
    assert text_of(tokenizer, encoded[1]) == "<|im_start|>assistant\nb<|im_end|>\n"


def test_generation_prompt_and_closing_complete_the_turn() -> None:
    tokenizer = TOKENIZERS["chatml"]
    chat = ChatFormat(tokenizer)
    messages = parse_messages(AGENT)
    assert text_of(tokenizer, [chat.generation_prompt(messages[:-1])]) == "<|im_start|>assistant\n"
    assert text_of(tokenizer, [chat.closing(messages)]) == "<|im_end|>\n"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*SPECIAL, *STRUCTURE, "\n", "assistant\n", "é", '"', "\\", "kvm", "\ud800", "🙂", "x"]),
        max_size=8,
    )
)
def test_no_content_becomes_structure(parts: list[str]) -> None:
    tokenizer = TOKENIZERS["chatml"]
    text = "".join(parts)
    call = {"id": text, "function": {"name": "f" + text, "arguments": {text: [text]}}}
    hostile = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": text, "name": text, "content": text},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": text}}]
    plain = [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"x": ["x"]}}}],
        },
        {"role": "tool", "tool_call_id": "x", "content": "x"},
    ]
    chat = ChatFormat(tokenizer)
    structure = set(tokenizer.hf.convert_tokens_to_ids([*SPECIAL, *STRUCTURE]))

    def structural(messages: Any, shown: Any) -> list[int]:
        ids = [i for p in flat(chat.encode(parse_messages(messages), shown)) for i in p.ids]
        return [i for i in ids if i in structure]

    plain_tools = [{"type": "function", "function": {"name": "f", "description": "x"}}]
    assert structural(hostile, tools) == structural(plain, plain_tools)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.data())
def test_characters_map_to_the_tokens_that_spell_them(text: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS["chatml"]
    content = [
        p
        for p in flat(ChatFormat(tokenizer).encode(parse_messages([{"role": "user", "content": text}])))
        if p.kind == "content"
    ]
    chars = [c for p in content for c in p.chars or ()]
    assert all(0 <= start < end <= len(text) for start, end in chars)
    assert sorted({i for start, end in chars for i in range(start, end)}) == list(range(len(text)))
    assert text_of(tokenizer, content) == text.encode("utf-8", "replace").decode()


def test_cuts_leave_parts_out() -> None:
    tokenizer = TOKENIZERS["chatml"]
    cuts = {1: Cuts(((0, 5),)), 2: Cuts(calls=frozenset([0]))}
    encoded = ChatFormat(tokenizer).encode(parse_messages(AGENT), cuts=cuts)
    assert text_of(tokenizer, encoded[1]) == "<|im_start|>user\nit up.<|im_end|>\n"
    assert text_of(tokenizer, encoded[2]) == "<|im_start|>assistant\nOn it.\n<tool_call>\n\n</tool_call><|im_end|>\n"


def test_documents_are_tokenized_apart() -> None:
    parts = [{"type": "text", "text": "Sources: "}, {"type": "text", "text": "one", "document_id": "d1"}, "two"]
    message = parse_messages([{"role": "tool", "tool_call_id": "c", "content": parts}])[0]
    assert message.content == "Sources: onetwo"
    content = [p for p in ChatFormat(TOKENIZERS["chatml"]).encode([message])[0] if p.kind == "content"]
    assert [(p.chars or ())[0][0] for p in content] == [0, 9, 12]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "empty"),
        ("hello", "list of messages"),
        (["hello"], "Message 0 is not an object"),
        ([{"role": "wizard", "content": "x"}], "role 'wizard'"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user", "content": 3}], "content is a string"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'; only text"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], "without a function name"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "belongs to the assistant"),
    ],
)
def test_what_is_not_a_conversation_is_refused_by_name(messages: Any, says: str) -> None:
    with pytest.raises(ConversationError, match=says):
        parse_messages(messages)


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatFormat(HFTokenizer(tiny_tokenizer(None)))
