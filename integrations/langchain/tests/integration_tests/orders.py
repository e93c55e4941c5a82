"""A short conversation of a support agent about an order, and the parts that tests look at."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from langchain_kv_memory import ErasableChatModel

SYSTEM = "Answer from the tool results, with the value alone. Say unknown if it stands nowhere."
RESULT = '{"order_id": "W-5530", "status": "delivered", "date": "2026-03-14"}'
STATUS = '"status": "delivered"'
"""What the result alone says so: an answer repeats the value."""
QUESTION = "What is the status of W-5530?"
NEW = 25
"""At most so many tokens are a short question and the head of an answer."""


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


def lookup(result: str = RESULT, call: str = "call_1") -> list[BaseMessage]:
    """A user's wish, the agent's call and its result, with ids as LangGraph stamps them."""
    made = [{"name": "get_order", "args": {"order_id": "W-5530"}, "id": call}]
    return [
        HumanMessage("Please look up W-5530.", id=f"{call}-h"),
        AIMessage("", id=f"{call}-a", tool_calls=made),
        ToolMessage(result, id=f"{call}-t", tool_call_id=call, name="get_order"),
    ]


def talk(*more: BaseMessage) -> list[BaseMessage]:
    return [SystemMessage(SYSTEM), *lookup(), *more, HumanMessage(QUESTION, id="q")]


def holds(model: ErasableChatModel, text: str, config: RunnableConfig) -> bool:
    """Whether the text stands in a cache of this thread: what a model can repeat, however good it is."""
    memory = model.load()
    branches = memory.session(str(config["configurable"]["thread_id"])).branches
    return any(text in memory.engine.tokenizer.decode(memory.engine.tokens(b.seq)) for b in branches if b.resident)


def read(message: Any) -> int:
    """Tokens that were in the cache."""
    return int(message.usage_metadata["input_token_details"]["cache_read"])


def prefilled(message: Any) -> int:
    """Tokens that were read for this answer."""
    return int(message.usage_metadata["input_token_details"]["cache_creation"])
