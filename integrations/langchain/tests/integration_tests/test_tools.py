"""Tool calls and structured answers, whole and streamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ContextOverflowError
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, trim_messages
from langchain_core.tools import tool
from pydantic import BaseModel

from kv_memory import ModelError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from langchain_kv_memory import ErasableChatModel

from .orders import QUESTION, prefilled, read, talk, thread

CONFIG = thread("t")


class Order(BaseModel):
    """The state of an order."""

    order_id: str
    status: str


@tool
def get_order(order_id: str) -> str:
    """Look an order up by its id."""
    return order_id


@tool
def get_item(sku: str, count: int = 1) -> str:
    """Look an item up by its SKU."""
    return sku


@pytest.fixture
def patient(model: ErasableChatModel) -> ErasableChatModel:
    model.max_tokens = 80
    return model


@pytest.mark.parametrize("name", ["get_order", "get_item"])
def test_a_forced_call_streamed_is_the_one_given(patient: ErasableChatModel, name: str) -> None:
    bound = patient.bind_tools([get_order, get_item], tool_choice=name)
    given = bound.invoke(talk(), CONFIG)
    chunks: list[Any] = list(bound.stream(talk(), thread("u")))
    whole: AIMessageChunk = sum(chunks[1:], chunks[0])
    assert [c["name"] for c in given.tool_calls] == [name]
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [(c["name"], c["args"]) for c in given.tool_calls]
    assert (whole.content, given.content) == ("", "")
    (call,) = [call for chunk in chunks for call in chunk.tool_call_chunks]  # whole: a part of it is no call
    assert json.loads(call["args"]) == given.tool_calls[0]["args"]
    assert whole.response_metadata["finish_reason"] == "tool_calls"


def test_a_call_that_was_streamed_is_in_the_cache_as_written(patient: ErasableChatModel) -> None:
    bound = patient.bind_tools([get_order], tool_choice="any")
    chunks: list[Any] = list(bound.stream(talk(), CONFIG))
    whole: AIMessageChunk = sum(chunks[1:], chunks[0])
    (call,) = whole.tool_calls
    result = get_order.invoke({**call, "type": "tool_call"})
    after = patient.bind_tools([get_order]).invoke([*talk(), whole, result, HumanMessage(QUESTION)], CONFIG)
    assert read(after) > 100
    assert prefilled(after) < 60
    assert call["id"] is not None
    report = patient.retract(call["id"], config=CONFIG)
    assert [span.kind for span in report.spans] == ["tool_result"]


def test_no_call_is_made_where_none_may_be(patient: ErasableChatModel) -> None:
    bound = patient.bind_tools([get_order], tool_choice="none")
    assert bound.invoke(talk(), CONFIG).tool_calls == []
    assert patient.invoke([HumanMessage("how are you")], thread("u")).tool_calls == []


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
async def test_an_answer_of_a_schema_whole_streamed_and_async(patient: ErasableChatModel, method: Any) -> None:
    structured = patient.with_structured_output(Order, method=method)
    answer = structured.invoke(talk(), CONFIG)
    assert isinstance(answer, Order)
    assert list(structured.stream(talk(), thread("u")))[-1] == answer
    assert await structured.ainvoke(talk(), thread("v")) == answer


def test_an_answer_fits_its_schema_with_few_tokens(model: ErasableChatModel) -> None:
    for tokens in (24, 30, 60):
        model.max_tokens = tokens
        answer = model.with_structured_output(Order, method="json_schema").invoke(talk(), thread(str(tokens)))
        assert isinstance(answer, Order)


def test_a_raw_answer_comes_with_its_error(model: ErasableChatModel) -> None:
    model.max_tokens = 4
    answer = model.with_structured_output(Order, include_raw=True).invoke(talk(), CONFIG)
    assert isinstance(answer["raw"], AIMessage)
    assert answer["parsed"] is None
    assert answer["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["auto", "any"])
@pytest.mark.parametrize("tokens", [4, 16, 20])
def test_a_call_that_is_cut_off_is_invalid(model: ErasableChatModel, streamed: bool, choice: str, tokens: int) -> None:
    bound = model.bind_tools([get_order], tool_choice=choice).bind(max_tokens=tokens)
    asked = [HumanMessage("Call get_order with order_id W-48213.")]
    if streamed:
        chunks: list[Any] = list(bound.stream(asked, CONFIG))
        answer: Any = sum(chunks[1:], chunks[0])
    else:
        answer = bound.invoke(asked, CONFIG)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.content.startswith("<tool_call>")
    assert answer.tool_calls == []
    (invalid,) = answer.invalid_tool_calls
    assert json.loads(invalid["args"]) == answer.content
    after = model.invoke([*asked, answer, HumanMessage(QUESTION)], CONFIG)
    assert after.tool_calls == []


def test_a_forced_call_has_the_arguments_that_the_model_meant(model: ErasableChatModel) -> None:
    asked = [HumanMessage("Call get_order with order_id W-48213.")]
    answer = model.bind_tools([get_order], tool_choice="any").invoke(asked, CONFIG, max_tokens=32)
    assert [call["args"] for call in answer.tool_calls] == [{"order_id": "W-48213"}]


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_an_agents_structured_answer(patient: ErasableChatModel, strategy: Any) -> None:
    agent = create_agent(patient, [], response_format=strategy(Order))
    state = agent.invoke({"messages": talk()[1:]}, CONFIG)
    assert isinstance(state["structured_response"], Order)


def test_a_conversation_that_is_too_long_is_langchains_overflow(model: ErasableChatModel) -> None:
    size = model.load().engine.max_positions
    with pytest.raises(ContextOverflowError, match="leave messages out"):
        model.invoke("1" * (size + 10), CONFIG)


def test_tokens_are_counted_by_the_models_own_tokenizer(model: ErasableChatModel) -> None:
    assert len(model.get_token_ids("12345")) == 5
    asked = [HumanMessage("12345")]
    counted = model.get_num_tokens_from_messages(asked)
    answer = model.invoke(asked, CONFIG)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == counted
    assert model.get_num_tokens_from_messages([]) == 0


@pytest.mark.parametrize("tools", [[], [get_order]], ids=["plain", "tools"])
def test_tokens_are_counted_as_a_call_reads_them(model: ErasableChatModel, tools: list[Any]) -> None:
    fresh = ErasableChatModel()
    answer = model.bind_tools(tools).invoke(talk(), CONFIG, max_tokens=1)
    assert answer.usage_metadata is not None
    assert fresh.get_num_tokens_from_messages(talk(), tools) == answer.usage_metadata["input_tokens"]
    assert fresh.get_num_tokens("12345") == 5
    assert fresh.ready is None


def test_tokens_are_counted_where_there_are_no_weights(tmp_path: Path) -> None:
    tiny_model().config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = ErasableChatModel(model=tmp_path)
    assert len(model.get_token_ids("<|im_end|>")) == len("<|im_end|>")
    assert model.get_num_tokens_from_messages(talk(), [get_order]) > model.get_num_tokens_from_messages(talk()) > 100
    with pytest.raises(ValueError, match="runs no tool of type 'web_search'"):
        model.get_num_tokens_from_messages(talk(), [{"type": "web_search"}])
    with pytest.raises(ModelError):
        model.load()


def test_history_is_trimmed_by_its_tokens(model: ErasableChatModel) -> None:
    history = talk()
    size = model.get_num_tokens_from_messages(history[:2])
    assert trim_messages(history, max_tokens=size, token_counter=model, strategy="first") == history[:2]


def test_a_response_cache_of_the_process_is_not_used(model: ErasableChatModel) -> None:
    set_llm_cache(InMemoryCache())
    try:
        history = talk()
        assert model.invoke(history, CONFIG).content == "delivered"
        model.retract("call_1", config=CONFIG)
        assert model.invoke(history, CONFIG).content == "unknown"
    finally:
        set_llm_cache(None)


def test_stop_strings_end_an_answer_streamed_too(model: ErasableChatModel) -> None:
    for answer in (
        model.invoke(talk(), CONFIG, stop=["iv"]).content,
        "".join(chunk.text for chunk in model.stream(talk(), thread("u"), stop=["iv"])),
    ):
        assert answer == "del"


def test_v1_output_comes_back_as_the_same_conversation(pocket: Any, patient: ErasableChatModel) -> None:
    v1 = ErasableChatModel(memory=pocket, output_version="v1", max_tokens=60)
    history = [*talk()]
    answer = v1.bind_tools([get_order], tool_choice="any").invoke(history, CONFIG)
    assert {block["type"] for block in answer.content_blocks} == {"tool_call"}
    result = get_order.invoke({**answer.tool_calls[0], "type": "tool_call"})
    after = v1.bind_tools([get_order]).invoke([*history, answer, result, HumanMessage(QUESTION)], CONFIG)
    assert prefilled(after) < 60
