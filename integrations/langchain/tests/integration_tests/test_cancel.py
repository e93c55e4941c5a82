"""Answers that nobody waits for any longer, and an event loop that is never blocked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from blockbuster import BlockBuster, blockbuster_ctx
from langchain_core.messages import HumanMessage, SystemMessage

from kv_memory import Memory
from langchain_kv_memory import ErasableChatModel, aretract_in_graph
from langchain_kv_memory.background import StoppedError
from langchain_kv_memory.options import CallOptions

from .orders import QUESTION, STATUS, holds, talk, thread

CONFIG = thread("t")
LONG = " ".join(f"Note {i}: shelf {i * 7} holds {i * 3} boxes." for i in range(60))


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch, pocket: Memory) -> threading.Event:
    """Set once an answer has begun; the answers of this test end at max_tokens alone, and take their time."""
    begun, ends = threading.Event(), torch.tensor(sorted(pocket.engine.tokenizer.eos_ids))

    def mask(said: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if said:
            begun.set()
            time.sleep(0.01)
        return logits.index_fill(-1, ends, float("-inf"))

    monkeypatch.setattr(CallOptions, "mask", lambda *_: mask)
    return begun


@pytest.fixture
def babbling(model: ErasableChatModel, speaking: threading.Event) -> ErasableChatModel:
    """It speaks for a long time."""
    model.max_tokens = 400
    return model


def _quiet(memory: Memory, *, spans: int) -> None:
    """Nothing is generated, nothing is locked, and the session holds so many messages."""
    for _ in range(100):
        if not any(branch.busy for name in memory.sessions() for branch in memory.session(name).branches):
            break
        time.sleep(0.05)
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(_take_and_give, memory).result()
    assert taken
    kinds = [span.kind for span in memory.session("t").spans()]
    assert len(kinds) == spans
    assert not any(branch.busy for branch in memory.session("t").branches)
    for branch in memory.session("t").branches:
        assert branch.ledger.positions() == memory.engine.positions(branch.seq)


def _take_and_give(memory: Memory) -> bool:
    taken = memory.engine.lock.acquire(timeout=5)
    if taken:
        memory.engine.lock.release()
    return taken


def test_an_abandoned_stream_leaves_nothing(babbling: ErasableChatModel, pocket: Memory) -> None:
    stream = babbling.stream("Tell me a story.", CONFIG)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    _quiet(pocket, spans=1)


def test_a_stream_that_is_dropped_leaves_nothing(babbling: ErasableChatModel, pocket: Memory) -> None:
    for _ in babbling.stream("Tell me a story.", CONFIG):
        break
    _quiet(pocket, spans=1)


async def test_an_abandoned_async_stream_leaves_nothing(babbling: ErasableChatModel, pocket: Memory) -> None:
    stream = babbling.astream("Tell me a story.", CONFIG)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    await asyncio.to_thread(_quiet, pocket, spans=1)


async def test_a_cancelled_answer_leaves_nothing(
    babbling: ErasableChatModel, speaking: threading.Event, pocket: Memory
) -> None:
    task = asyncio.create_task(babbling.ainvoke("Tell me a story.", CONFIG))
    assert await asyncio.to_thread(speaking.wait, 10)
    started = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - started < 1
    await asyncio.to_thread(_quiet, pocket, spans=1)


async def test_a_cancelled_prefill_is_taken_back(model: ErasableChatModel, pocket: Memory) -> None:
    reading = threading.Event()
    append = pocket.engine.prefill

    def prefill(seq: Any, ids: Any, positions: Any = None, progress: Any = None) -> None:
        def heard(done: int) -> None:
            reading.set()
            time.sleep(0.3)
            progress(done)

        append(seq, ids, positions, heard if progress else None)

    pocket.engine.prefill = prefill  # type: ignore[method-assign]
    try:
        task = asyncio.create_task(model.ainvoke([SystemMessage(LONG), HumanMessage(QUESTION)], CONFIG))
        await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(_quiet, pocket, spans=0)
    finally:
        del pocket.engine.prefill


async def test_a_timeout_stops_the_worker(babbling: ErasableChatModel, pocket: Memory) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(babbling.ainvoke("Tell me a story.", CONFIG), 0.5)
    await asyncio.to_thread(_quiet, pocket, spans=1)


def test_an_error_midway_leaves_nothing(babbling: ErasableChatModel, pocket: Memory) -> None:
    class BrokenError(Exception):
        pass

    def listen(_: Any) -> None:
        raise BrokenError

    with pytest.raises(BrokenError):
        for chunk in babbling.stream("Tell me a story.", CONFIG):
            listen(chunk)
    _quiet(pocket, spans=1)


async def test_an_error_in_the_worker_arrives(model: ErasableChatModel) -> None:
    with pytest.raises(ValueError, match="no option 'top_k'"):
        await model.ainvoke("Hello", CONFIG, top_k=3)


def test_a_retraction_while_an_answer_is_streamed_is_queued(babbling: ErasableChatModel) -> None:
    babbling.max_tokens = 12
    history = talk()
    stream = babbling.stream(history, CONFIG)
    next(stream)
    report = babbling.retract("call_1", config=CONFIG)
    assert report.status == "queued"
    list(stream)
    assert [s.tokens for s in babbling.spans(config=CONFIG) if s.kind == "tool_result"] == [0]


@pytest.fixture
def loop_guard() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as guard:
        yield guard


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "lazy"])
async def test_nothing_blocks_the_event_loop(model: ErasableChatModel, loop_guard: BlockBuster, loaded: bool) -> None:
    asked = model if loaded else ErasableChatModel(max_tokens=8)
    history = talk()
    answer = await asked.ainvoke(history, CONFIG)
    async for _ in asked.astream([*history, answer, HumanMessage(QUESTION)], CONFIG):
        pass
    report = await asked.aretract("call_1", config=CONFIG)
    assert report.tokens_erased > 0
    assert asked.retract("call_1", config=CONFIG, wait=False).status == "queued"
    report.tombstones(history)


async def test_an_agents_async_calls_do_not_block_the_event_loop(
    model: ErasableChatModel, loop_guard: BlockBuster
) -> None:
    from langchain.agents import create_agent
    from langgraph.checkpoint.memory import InMemorySaver

    agent = create_agent(model, [], checkpointer=InMemorySaver())
    asked: Any = {"messages": talk()[1:]}
    await agent.ainvoke(asked, CONFIG)
    report = await aretract_in_graph(agent, model, "call_1", config=CONFIG)
    assert report.tokens_erased > 0
    await agent.ainvoke({"messages": [HumanMessage(QUESTION)]}, CONFIG)
    assert not holds(model, STATUS, CONFIG)


def test_a_stop_flag_raises_what_it_says() -> None:
    from langchain_kv_memory.background import StopFlag

    flag = StopFlag()
    flag.check()
    flag.set()
    with pytest.raises(StoppedError, match="cancelled"):
        flag.check(3)
