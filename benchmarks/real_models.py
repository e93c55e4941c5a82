"""What a retraction does in real small models: a question about documents, and an agent with two tools.

    python -m benchmarks.real_models --qwen QWEN.gguf --smollm2 SMOLLM2.gguf

The question, the tools and the agent are those of examples/wrong_document.py and examples/langchain_gguf_agent.py. Each
part runs in a process of its own, whose peak memory is reported. Times are medians over rounds, in which the eraser and
a recompute take turns; a ratio is of two times of the same round. Decoding is greedy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import runpy
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
CONTEXT = 4096
REQUESTS = (
    ("Where is my order W-5530?", "order_status", "W-5530"),
    ("How many red umbrellas do you have in stock?", "stock", "red umbrella"),
    ("What is the status of order A-1047?", "order_status", "A-1047"),
    ("Is the blue kettle in stock?", "stock", "blue kettle"),
    ("Has order B-2210 been shipped yet?", "order_status", "B-2210"),
    ("Do you still have garden chairs in stock?", "stock", "garden chair"),
    ("Please check order K-9001 for me.", "order_status", "K-9001"),
    ("How many desk lamps are left?", "stock", "desk lamp"),
    ("When will order C-318 arrive?", "order_status", "C-318"),
    ("Check the stock of wool blankets, please.", "stock", "wool blanket"),
)
"""Requests, with the tool and the argument that are right."""
ARGUMENT = {"order_status": "order_id", "stock": "item"}
CONVERSATION = ("Where is my order W-5530?", "Is the blue kettle in stock?", "How many desk lamps are left?")
RECALL = "From what you have looked up: what is the status of my order W-5530?"


def documents(path: str, rounds: int) -> dict[str, Any]:
    """Return the answers about the documents and the times of erasing the wrong one."""
    from kv_memory import Memory

    example = runpy.run_path(str(EXAMPLES / "wrong_document.py"))
    wrong, messages = example["WRONG"], example["conversation"](example["DOCUMENTS"])
    others = {name: text for name, text in example["DOCUMENTS"].items() if name != wrong}
    memory = Memory(path, context_length=CONTEXT, heal="never")
    session = memory.session("documents")
    started = time.perf_counter()
    before = session.chat(messages, max_tokens=24)
    result: dict[str, Any] = {"tokens": before.usage.prefilled, "first_answer_seconds": time.perf_counter() - started}

    def erase(eraser: str | None) -> Any:
        with session.fork() as other:
            report = other.retract(wrong, eraser=eraser)
            return report, other.chat(messages, max_tokens=24).text

    result["times"], reports, answers = alternate(erase, rounds)
    never_saw = memory.session("never").chat(example["conversation"](others), max_tokens=24).text
    result |= counts(reports[None]) | {"eraser": reports[None].eraser}
    result["answers"] = {"before": before.text, "after": answers[None], "recompute": answers["recompute"]}
    result["answers"]["never saw"] = never_saw
    return {**result, "resident_megabytes_at_most": peak()}


def alternate(
    erase: Callable[[str | None], tuple[Any, Any]], rounds: int
) -> tuple[dict[str, Any], dict[str | None, Any], dict[str | None, Any]]:
    """Return the times of the default eraser and of a recompute in turns, their reports, and what else they gave."""
    seconds: dict[str | None, list[float]] = {None: [], "recompute": []}
    reports, others = {}, {}
    for number in range(rounds):
        for eraser in sorted(seconds, key=str, reverse=bool(number % 2)):
            reports[eraser], others[eraser] = erase(eraser)
            seconds[eraser].append(reports[eraser].seconds)
    ratios = [exact / quick for quick, exact in zip(seconds[None], seconds["recompute"], strict=True)]
    times = {
        "rounds": rounds,
        "erase_seconds": median(seconds[None]),
        "recompute_seconds": median(seconds["recompute"]),
    }
    times |= {"recompute_over_eraser": median(ratios), "least": min(ratios), "most": max(ratios)}
    return times, reports, others


def counts(report: Any) -> dict[str, int]:
    """Return how many tokens a retraction erased, and how many it and a recompute run again."""
    last = min(span.start for span in report.spans)
    following = report.tokens_reused + report.tokens_recomputed - last
    return {
        "tokens_erased": report.tokens_erased,
        "tokens_recomputed": report.tokens_recomputed,
        "tokens_following": following,
    }


def requests(path: str) -> list[dict[str, Any]]:
    """Return for each request which tool the model calls, with what, and whether that is right.

    "free": it may answer or call, as a chat model with tools does. "agent": the example's agent has it call a tool.
    """
    model, example = chat_model(path)
    tools = model.bind_tools([example["order_status"], example["stock"]])
    agent = example["agent_with"](model)
    rows = []
    for number, (request, tool, argument) in enumerate(REQUESTS):
        asked = {"role": "user", "content": request}
        config: Any = {"configurable": {"thread_id": f"free{number}"}}
        started = time.perf_counter()
        said = tools.invoke([{"role": "system", "content": example["SYSTEM"]}, asked], config)
        row = {"request": request, "way": "free", **judged(said, tool, argument)}
        rows.append({**row, "seconds": round(time.perf_counter() - started, 2)})
        started = time.perf_counter()
        state = agent.invoke({"messages": [asked]}, {"configurable": {"thread_id": f"agent{number}"}})
        seconds = round(time.perf_counter() - started, 2)
        answer = json.loads(state["messages"][-1].text)["answer"]
        row = {"request": request, "way": "agent", **judged(state["messages"][1], tool, argument)}
        rows.append({**row, "answer": answer, "seconds": seconds})
        print(*rows[-2:], sep="\n", flush=True)
    return rows


def judged(message: Any, tool: str, argument: str) -> dict[str, Any]:
    """Return the call of an answer, or its text, and whether it is the one call that is right.

    Of an item singular and plural are right, in any case of letters; an underscore for a space is not.
    """
    calls = [{call["name"]: call["args"]} for call in message.tool_calls]
    given = message.tool_calls[0]["args"].get(ARGUMENT[tool]) if len(calls) == 1 else None
    same = isinstance(given, str) and re.fullmatch(f"{re.escape(argument)}s?", given, re.IGNORECASE)
    right = len(calls) == 1 and message.tool_calls[0]["name"] == tool and bool(same)
    return {"called": calls or message.text[:80], "right": right}


def agent(path: str, rounds: int) -> dict[str, Any]:
    """Return what the agent says before and after a wrong tool result is retracted, and the times."""
    from langchain_kv_memory import retract_in_graph

    model, example = chat_model(path)
    graph = example["agent_with"](model)
    thread: Any = {"configurable": {"thread_id": "ada"}}

    def say(text: str) -> list[Any]:
        return list(graph.invoke({"messages": [{"role": "user", "content": text}]}, thread)["messages"])

    def recall() -> str:
        """Ask what it knows without looking it up; the conversation goes on without the question."""
        asked = [*graph.get_state(thread).values["messages"], {"role": "user", "content": RECALL}]
        system = {"role": "system", "content": example["SYSTEM"]}
        tools = model.bind_tools([example["order_status"], example["stock"]], tool_choice="none")
        return answer_of(tools.invoke([system, *asked], thread, response_format=example["ANSWER"]))

    *_, wrong, told = say(CONVERSATION[0])
    for text in CONVERSATION[1:]:
        say(text)
    example["STATUS"]["W-5530"] = {"status": "shipped", "arrives": "Friday"}
    result: dict[str, Any] = {"before": answer_of(told), "recalled_before": recall()}
    session = model.load().session("ada")

    def erase(eraser: str | None) -> tuple[Any, None]:
        with session.fork() as other:
            return other.retract(wrong.tool_call_id, told.id, eraser=eraser), None

    result["times"], reports, _ = alternate(erase, rounds)
    retract_in_graph(graph, model, wrong, told, config=thread, reason="error: the status of another order")
    result |= counts(reports[None]) | {"eraser": reports[None].eraser, "recalled_after": recall()}
    *_, asked, found, after = say(CONVERSATION[0])
    result |= {"called_after": asked.tool_calls[0]["args"], "result_after": found.text, "after": answer_of(after)}
    return {**result, "recalled_at_the_end": recall(), "resident_megabytes_at_most": peak()}


def answer_of(message: Any) -> str:
    """Return the text of an answer that has the example's form."""
    return str(json.loads(message.text)["answer"])


def chat_model(path: str) -> tuple[Any, dict[str, Any]]:
    """Return a chat model over a file, and the names of the example with the agent."""
    from langchain_kv_memory import ErasableChatModel

    example = runpy.run_path(str(EXAMPLES / "langchain_gguf_agent.py"))
    return ErasableChatModel(model=path, context_length=CONTEXT, max_tokens=64, heal="never"), example


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def alone(part: Callable[..., Any], *given: Any) -> Any:
    """Run a part in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(part, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", required=True, help="GGUF file of Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--smollm2", help="GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="real_models")
    args = parser.parse_args()
    from benchmarks.record import environment, save

    files = {"Qwen2.5-Coder-0.5B-Instruct": args.qwen, "SmolLM2-135M-Instruct": args.smollm2}
    files = {name: path for name, path in files.items() if path}
    result: dict[str, Any] = environment(seed=0)
    result["versions"] |= {name: version(name) for name in ("llama-cpp-python", "langchain", "langgraph", "llguidance")}
    result |= {"cpus": os.cpu_count(), "load_average": [round(load, 1) for load in os.getloadavg()[:2]]}
    result["files"] = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()}
    result["documents"] = {name: alone(documents, path, args.rounds) for name, path in files.items()}
    result["agent"] = alone(agent, args.qwen, args.rounds)
    result["requests"] = alone(requests, args.qwen)
    save(args.name, result)


if __name__ == "__main__":
    main()
