"""The session id arrives on every way to call the model; branches of one thread do not disturb each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_kv_memory import ErasableChatModel

from .orders import NEW, QUESTION, prefilled, read, talk, thread

SAID = "Is the session id there?"
CONFIG = thread("t-7")


@tool
def look(it: str) -> str:
    """Look something up."""
    return it


async def _events(runnable: Any, config: RunnableConfig, version: str) -> None:
    async for _ in runnable.astream_events(SAID, config, version=version):
        pass


async def _astream(runnable: Any, config: RunnableConfig) -> None:
    async for _ in runnable.astream(SAID, config):
        pass


async def _v3(model: Any, config: RunnableConfig) -> None:
    await (await model.astream_events(SAID, config, version="v3"))


def _agent(model: ErasableChatModel) -> Any:
    return create_agent(model, [look], checkpointer=InMemorySaver())


ASKED: dict[str, Any] = {"messages": [HumanMessage(SAID)]}
PATHS: dict[str, Callable[[ErasableChatModel], Any]] = {
    "invoke": lambda m: m.invoke(SAID, CONFIG),
    "ainvoke": lambda m: asyncio.run(m.ainvoke(SAID, CONFIG)),
    "stream": lambda m: list(m.stream(SAID, CONFIG)),
    "astream": lambda m: asyncio.run(_astream(m, CONFIG)),
    "stream_events v3": lambda m: m.stream_events(SAID, CONFIG, version="v3").output,
    "astream_events v2": lambda m: asyncio.run(_events(m, CONFIG, "v2")),
    "astream_events v3": lambda m: asyncio.run(_v3(m, CONFIG)),
    "batch": lambda m: m.batch([SAID], CONFIG),
    "abatch": lambda m: asyncio.run(m.abatch([SAID], CONFIG)),
    "batch_as_completed": lambda m: list(m.batch_as_completed([SAID], CONFIG)),
    "session_id in the config": lambda m: m.invoke(SAID, {"configurable": {"session_id": "t-7", "thread_id": "other"}}),
    "as a call's option": lambda m: m.invoke(SAID, session_id="t-7"),
    "bound": lambda m: m.bind(session_id="t-7").invoke(SAID),
    "with_config": lambda m: m.with_config(CONFIG).invoke(SAID),
    "with_retry": lambda m: m.with_retry().invoke(SAID, CONFIG),
    "with_fallbacks": lambda m: m.with_fallbacks([m]).invoke(SAID, CONFIG),
    "bind_tools": lambda m: m.bind_tools([look]).invoke(SAID, CONFIG),
    "structured output": lambda m: m.with_structured_output({"title": "a", "type": "object"}).invoke(SAID, CONFIG),
    "prompt | model": lambda m: (ChatPromptTemplate([("user", "{x}")]) | m).invoke({"x": SAID}, CONFIG),
    "prompt | model, streamed": lambda m: list((ChatPromptTemplate([("user", "{x}")]) | m).stream({"x": SAID}, CONFIG)),
    "configurable_fields": lambda m: _configurable(m).invoke(SAID, CONFIG),
    "agent": lambda m: _agent(m).invoke(ASKED, CONFIG),
    "agent, async": lambda m: asyncio.run(_agent(m).ainvoke(ASKED, CONFIG)),
    "agent, messages streamed": lambda m: list(_agent(m).stream(ASKED, CONFIG, stream_mode="messages")),
    "generate inside a run": lambda m: _inside(m).invoke(SAID, CONFIG),
}


def _configurable(model: ErasableChatModel) -> Any:
    from langchain_core.runnables import ConfigurableField

    return model.configurable_fields(max_tokens=ConfigurableField(id="max_tokens"))


def _inside(model: ErasableChatModel) -> Any:
    from langchain_core.runnables import RunnableLambda

    return RunnableLambda(lambda said: model.generate([[HumanMessage(said)]]))


@pytest.mark.parametrize("path", PATHS)
def test_the_session_id_arrives(model: ErasableChatModel, path: str) -> None:
    model.max_tokens = 2
    PATHS[path](model)
    assert model.load().sessions() == ["t-7"]


def test_each_config_of_a_batch_has_its_session(model: ErasableChatModel) -> None:
    answers = model.batch(["one", "two"], [thread("a"), thread("b")])
    assert [a.response_metadata["kv_memory"]["session"] for a in answers] == ["a", "b"]


def test_calls_without_an_id_are_matched_by_content(model: ErasableChatModel) -> None:
    first = model.generate([talk()]).generations[0][0]
    assert isinstance(first, ChatGeneration)
    again = model.invoke([*talk(), first.message, HumanMessage("Thanks.")])
    assert model.load().sessions() == ["anonymous"]
    assert read(again) > 80


def test_sub_agents_and_a_summarizer_keep_the_main_branch(model: ErasableChatModel) -> None:
    config = thread("main")
    history = talk()
    history.append(model.invoke(history, config))

    def sub_agent(topic: str) -> BaseMessage:
        return model.invoke([SystemMessage(f"You research {topic}."), HumanMessage(f"Tell me of {topic}.")], config)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sub_agent, ["desks", "lamps", "chairs", "rugs"]))
    text = "\n".join(message.text for message in history)
    model.invoke([HumanMessage(f"Summarize:\n{text}")], config)
    after = model.invoke([*history, HumanMessage("And the date?")], config)
    assert after.response_metadata["kv_memory"]["branch"] == history[-1].response_metadata["kv_memory"]["branch"]
    assert read(after) > 90
    assert prefilled(after) <= NEW
    assert model.load().sessions() == ["main"]


def test_the_answers_of_parallel_sub_agents_are_those_of_lone_ones(model: ErasableChatModel) -> None:
    asked = [talk(HumanMessage(f"This is round {i}.")) for i in range(4)]
    alone = [model.invoke(messages, thread(f"alone-{i}")).content for i, messages in enumerate(asked)]
    with ThreadPoolExecutor(4) as pool:
        together = [answer.content for answer in pool.map(lambda m: model.invoke(m, thread("shared")), asked)]
    assert together == alone


def test_callbacks_hear_of_the_session(model: ErasableChatModel) -> None:
    heard: list[dict[str, Any]] = []

    class Listener(BaseCallbackHandler):
        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            heard.append(response.generations[0][0].message.response_metadata["kv_memory"])

    model.invoke(QUESTION, {**thread("t"), "callbacks": [Listener()]})
    assert [metadata["session"] for metadata in heard] == ["t"]


def test_an_answer_streamed_is_the_answer_given(model: ErasableChatModel) -> None:
    given = model.invoke(talk(), thread("a"))
    chunks = list(model.stream(talk(), thread("b")))
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(given, AIMessage)
    assert (whole.content, whole.usage_metadata) == (given.content, given.usage_metadata)
    assert [chunk.usage_metadata for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].chunk_position == "last"
