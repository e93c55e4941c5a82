"""An agent on a real model of 0.5 B parameters reads a wrong tool result. It is retracted, and the agent asks again.

python examples/langchain_gguf_agent.py MODEL.gguf    (Qwen2.5-Coder-0.5B-Instruct, as for examples/wrong_document.py)
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain.tools import tool
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langchain_kv_memory import ErasableChatModel, retract_in_graph

SYSTEM = "You work for a shop. Look up what you need with one tool call. Then answer the customer in one sentence."
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
ANSWER = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
STATUS = {"W-5530": {"status": "cancelled"}}


@tool
def order_status(order_id: str) -> str:
    """Look up the status of an order by its number."""
    return json.dumps({"order_id": order_id, **STATUS.get(order_id, {"status": "shipped", "arrives": "Monday"})})


@tool
def stock(item: str) -> str:
    """Look up how many pieces of an item are in stock."""
    return json.dumps({"item": item, "in_stock": 14})


@wrap_model_call
def call_then_answer(request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
    """Which tool and with what is the model's choice; when to stop is not: one this small calls again for ever."""
    if request.messages[-1].type != "tool":
        return handler(request.override(tool_choice="any"))
    return handler(request.override(tool_choice="none", model_settings={"response_format": ANSWER}))


def agent_with(model: ErasableChatModel) -> Any:
    """Return the shop's agent."""
    options: Any = {"middleware": [call_then_answer], "checkpointer": InMemorySaver()}
    return create_agent(model, [order_status, stock], system_prompt=SYSTEM, **options)


def main(path: str) -> None:
    """Run the conversation."""
    model = ErasableChatModel(model=path, context_length=4096, max_tokens=64)
    agent, thread = agent_with(model), RunnableConfig(configurable={"thread_id": "ada"})

    def say(text: str) -> tuple[Any, Any]:
        started = time.perf_counter()
        *_, asked, result, answer = agent.invoke({"messages": [("user", text)]}, thread)["messages"]
        print(f"\nuser:  {text}\n       {asked.tool_calls[0]['name']}({asked.tool_calls[0]['args']}) -> {result.text}")
        print(f"agent: {json.loads(answer.text)['answer']}    [{time.perf_counter() - started:.1f} s]")
        return result, answer

    wrong, answer = say("Where is my order W-5530?")
    say("Is the blue kettle in stock?")
    say("How many desk lamps are left?")
    STATUS["W-5530"] = {"status": "shipped", "arrives": "Friday"}  # the shop has put right what it had said
    exact = model.load().session("ada").fork().retract(wrong.tool_call_id, answer.id, eraser="recompute")
    why = "error: the status of another order"  # the answer goes too: it repeats what the result said
    done = retract_in_graph(agent, model, wrong, answer, config=thread, reason=why)
    print(f"\n{done.tokens_erased} tokens erased, {done.tokens_recomputed} recomputed, {done.seconds:.2f} s")
    print(f"Recomputing all {exact.tokens_recomputed} that follow: {exact.seconds:.2f} s")
    say("Where is my order W-5530?")
    print(f"\nmemory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
