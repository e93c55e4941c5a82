"""The tables of what a retraction does in real small models: the README's, and that of docs/results.md."""

from __future__ import annotations

from typing import Any

from benchmarks.record import source, table

MODEL = "Qwen2.5-Coder-0.5B-Instruct"
WAYS = {"free": "the model is free to call or to answer", "agent": "the agent has it call a tool"}


def real_example(result: dict[str, Any]) -> str:
    """Return the README's lines: the question about documents and the agent, before and after."""
    found, agent, requests = result["documents"][MODEL], result["agent"], result["requests"]
    rows = {
        f"{found['tokens']:,} tokens of documents": _row(found["answers"], found),
        "an agent's wrong tool result": _row(agent, agent),
    }
    asked = len({row["request"] for row in requests})
    right = ", and ".join(f"in {_right(requests, way)} where {said}" for way, said in WAYS.items())
    return "\n".join(
        [
            *table(("before", "after", "erase", "recompute", "memory"), rows),
            "",
            f"Recomputed were {found['tokens_recomputed']} of {found['tokens_following']:,} later tokens, and "
            f"{agent['tokens_recomputed']} of {agent['tokens_following']:,}; the default is now a quarter of them. "
            f"Of {asked} plain requests the right tool is called with the right argument {right}.",
            "",
        ]
    )


def real_models(result: dict[str, Any]) -> str:
    """Return the page's tables: answers before and after by model, times, and what the agent calls."""
    versions, agent = result["versions"], result["agent"]
    lines = [
        "## Examples on real models",
        "",
        "Answers and times of examples/wrong_document.py and examples/langchain_gguf_agent.py: a question about six "
        "documents of which the first is wrong, and an agent that was given a wrong tool result "
        f"({source(result)}, llama-cpp-python {versions['llama-cpp-python']}, langchain {versions['langchain']}; load "
        f"{result['load_average'][0]} on {result['cpus']} cores; `benchmarks/results/real_models.json`). Greedy; "
        "medians of rounds in which both take turns, and in brackets the least and the most of a round's ratio.",
        "",
    ]
    rows = {f"{name}, documents": _times(found) for name, found in result["documents"].items()}
    rows[f"{MODEL}, agent"] = _times(agent)
    lines += table(("erased", "recomputed", "erase", "recompute", "times as long", "memory"), rows)
    said = {name: _answers(found["answers"]) for name, found in result["documents"].items()}
    columns = ("before", "after", "after `recompute`", "never saw")
    lines += ["", *table(columns, {f"{name}, documents": cells for name, cells in said.items()})]
    recalled = [agent["recalled_before"], agent["recalled_after"], agent["recalled_at_the_end"]]
    lines += [
        "",
        f'The agent said: "{agent["before"]}" After the retraction it looked the order up again and said: '
        f'"{agent["after"]}" Asked for the status without a look-up, it said before the retraction "{recalled[0]}", '
        f'after it "{recalled[1]}", and after the second look-up "{recalled[2]}"',
        "",
        "Ten plain requests, each in a thread of its own: what was called, and in brackets where that was not right.",
        "",
    ]
    shown: dict[str, list[str]] = {}
    for row in result["requests"]:
        called = ", ".join(
            f"`{tool}({' '.join(args.values())})`" for call in row["called"] for tool, args in call.items()
        )
        shown.setdefault(row["request"], []).append(called if row["right"] else f"({called})")
    return "\n".join([*lines, *table(WAYS.values(), shown, "request"), ""])


def _row(answers: dict[str, Any], found: dict[str, Any]) -> list[str]:
    times = found["times"]
    longer = f"{times['recompute_seconds']:.1f} s ({times['recompute_over_eraser']:.1f}x)"
    memory = f"{found['resident_megabytes_at_most'] / 1e3:.2f} GB"
    return [answers["before"], answers["after"], f"{times['erase_seconds']:.2f} s", longer, memory]


def _times(found: dict[str, Any]) -> list[str]:
    times = found["times"]
    return [
        f"{found['tokens_erased']} tokens",
        f"{found['tokens_recomputed']} of {found['tokens_following']:,}",
        f"{times['erase_seconds']:.2f} s",
        f"{times['recompute_seconds']:.2f} s",
        f"{times['recompute_over_eraser']:.1f} ({times['least']:.1f} to {times['most']:.1f})",
        f"{found['resident_megabytes_at_most']:,.0f} MB",
    ]


def _answers(answers: dict[str, str]) -> list[str]:
    return [answers[when] for when in ("before", "after", "recompute", "never saw")]


def _right(requests: list[dict[str, Any]], way: str) -> int:
    return sum(row["right"] for row in requests if row["way"] == way)
