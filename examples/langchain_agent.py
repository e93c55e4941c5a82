"""An agent reads a wrong tool result. When the tool is called again, the first result leaves the model's cache."""

import json
import time
from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, wrap_model_call
from langchain.tools import tool
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langchain_kv_memory import ErasableChatModel, RetractionReport
from langchain_kv_memory.middleware import RetractionMiddleware
from langchain_kv_memory.policies import SupersededToolResult

STATUS = {"W-5530": "cancelled"}


@tool
def get_order(order_id: str) -> str:
    """Look up an order."""
    return json.dumps({"order_id": order_id, "status": STATUS[order_id]})


@tool
def get_terms() -> str:
    """Read the terms of delivery."""
    return "\n".join(f"{i}. Parcels are left with neighbours or in a safe place." for i in range(1, 13))


@wrap_model_call
def call_when_told(request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
    """The pocket model cannot decide which tool to call; a larger model needs none of this."""
    last = request.messages[-1]
    first = last.text.split()[0] if last.type == "human" else ""
    return handler(request.override(tool_choice={"Look": "get_order", "Read": "get_terms"}.get(first, "none")))


def main() -> None:
    """Run the conversation."""
    model = ErasableChatModel()
    middleware: list[AgentMiddleware[Any, Any, Any]] = [RetractionMiddleware([SupersededToolResult()]), call_when_told]
    agent = create_agent(model, [get_order, get_terms], middleware=middleware, checkpointer=InMemorySaver())
    thread: RunnableConfig = {"configurable": {"thread_id": "ada"}}

    def say(text: str) -> None:
        answer = agent.invoke({"messages": [{"role": "user", "content": text}]}, thread)["messages"][-1]
        usage = answer.usage_metadata
        cached = f"{usage['input_token_details']['cache_read']} of {usage['input_tokens']} tokens were in the cache"
        print(f"\nuser:  {text}\nagent: {answer.text}    [{cached}]")

    say("Look up order W-5530.")
    say("Read the terms of delivery.")
    say("What is the status of W-5530?")
    STATUS["W-5530"] = "delivered"  # the shop has put right what it had said
    say("Look up order W-5530 again.")
    say("What is the status of W-5530?")

    state = agent.get_state(thread).values
    for message in state["messages"]:
        if message.name == "get_order":
            print(f"\n{message.tool_call_id} returned: {message.text or '(retracted)'}", end="")
    report = RetractionReport.model_validate(state["retractions"][0])
    after = report.tokens_reused + report.tokens_recomputed - report.spans[0].start
    started = time.perf_counter()
    fresh = model.invoke(state["messages"][:-1], {"configurable": {"thread_id": "fresh"}}, max_tokens=1)
    assert fresh.usage_metadata is not None
    seconds, tokens = time.perf_counter() - started, fresh.usage_metadata["input_tokens"]
    print(f"\n\n{report.reason}: {report.tokens_erased} tokens erased ({report.status}).")
    print(f"Recomputed: {report.tokens_recomputed} of the {after} tokens after it, {1000 * report.seconds:.0f} ms.")
    print(f"Prefilling the corrected conversation, all {tokens} tokens: {1000 * seconds:.0f} ms.")


if __name__ == "__main__":
    main()
