"""Cases of recorded agent runs: tau-bench airline (Yao et al., arXiv 2406.12045) and AgentDojo under prompt injection
(Debenedetti et al., arXiv 2406.13352).

Of each run one tool result is erased; of AgentDojo the one that holds an injected text, or in every second run the
injected characters alone. Each gives two cases after the same context: the recorded turn of the assistant that came
next, and the neighbourhood of what was erased, repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random
from typing import Any

from kv_memory.conversation.spans import CharRange
from kv_memory.evaluation import agentdojo
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.source import Source

SUITE = "transcripts"
TAU_BENCH = "tau_bench_airline.jsonl"
SHORTEST, BETWEEN, SCORED = 16, 100, 64
"""Number of tokens: of a span, at least; from its end to the turn, at least; of the turn that are scored, at most."""


@dataclass(frozen=True)
class _Run:
    """A recorded run and the parts of it that may be erased, by the index of their message."""

    name: str
    conversation: str
    messages: list[dict[str, Any]]
    targets: dict[int, str | CharRange]


def transcripts(source: Source) -> Iterator[Case]:
    """Yield the cases of both sets in turns. Raises KVMemoryError where a set is not at hand."""
    sets = [_cases(source, "tau-bench", _tau_bench(source)), _cases(source, "AgentDojo", _agentdojo(source))]
    for pairs in zip_longest(*sets, fillvalue=()):
        for pair in pairs:
            yield from pair


def _tau_bench(source: Source) -> Iterator[_Run]:
    for record in source.records(TAU_BENCH, "tau-bench airline, github.com/sierra-research/tau-bench"):
        messages = [{**message, "id": f"m{number}"} for number, message in enumerate(record["messages"])]
        task = f"tau-bench {record['task_id']}"
        results = {number: m["id"] for number, m in enumerate(messages) if m["role"] == "tool"}
        yield _Run(f"{task}, trial {record['trial']}", task, messages, results)


def _agentdojo(source: Source) -> Iterator[_Run]:
    runs = source.records(agentdojo.FILE, "AgentDojo's runs, github.com/ethz-spylab/agentdojo")
    found = ((record, hit) for record in runs if (hit := agentdojo.injected(record)) is not None)
    for number, (record, (messages, chars)) in enumerate(found):
        task = f"AgentDojo {record['suite_name']} {record['user_task_id']}"
        at = next(place for place, message in enumerate(messages) if message["id"] == chars.message)
        name = f"{task}, {record['injection_task_id']}, {record['attack_type']}"
        yield _Run(name, task, messages, {at: chars if number % 2 else chars.message})


def _cases(source: Source, kind: str, runs: Iterator[_Run]) -> Iterator[tuple[Case, ...]]:
    """Yield the two cases of each run that has a span and a turn to score."""
    for run in runs:
        if not source.holds(run.conversation):
            continue
        chosen = _chosen(source, Transcript(source.form, run.messages), run)
        if chosen is None:
            continue
        result, turn = chosen
        target = run.targets[result]
        read = Transcript(source.form, run.messages[:turn])
        facts: dict[str, Any] = {
            "suite": SUITE,
            "conversation": run.conversation,
            "groups": {"span": "characters" if isinstance(target, CharRange) else "result"},
        }
        named = _named(read, result)
        named = f"the instruction in {named}" if isinstance(target, CharRange) else named
        next_turn = read.next_turn(
            f"{kind}, next turn", [target], run.messages[turn], named=named, name=f"{run.name}, next turn", **facts
        )
        again = read.neighbourhood(f"{kind}, neighbourhood", [target], name=f"{run.name}, neighbourhood", **facts)
        pair = (replace(next_turn, scored=(next_turn.scored or ())[:SCORED]), again)
        if all(source.fits(case, answer=0) for case in pair):
            yield pair


def _chosen(source: Source, read: Transcript, run: _Run) -> tuple[int, int] | None:
    """Return the indices of a message with something to erase and of a later turn, any of those that are far enough
    apart; None where there are none."""
    entries, rng = read.ledger.entries, source.rng(SUITE, run.name)
    room = source.longest - SCORED - BETWEEN  # for the head, the turn and a correction
    turns = [
        (number, entry.start)
        for number, entry in enumerate(entries)
        if entry.message.role == "assistant" and entry.start <= room
        if any(run.piece.kind != "scaffold" for run in entry.runs)
    ]
    pairs: dict[int, list[int]] = {}
    for result, target in run.targets.items():
        spans = read.cells([target])
        later = [turn for turn, start in turns if spans and spans[-1][1] + BETWEEN <= start]
        if later and sum(end - start for start, end in spans) >= SHORTEST:
            pairs[result] = later
    return _any(rng, pairs) if pairs else None


def _any(rng: Random, pairs: dict[int, list[int]]) -> tuple[int, int]:
    result = rng.choice(list(pairs))
    return result, rng.choice(pairs[result])


def _named(read: Transcript, result: int) -> str:
    """Return words for a tool result: by the tool's name, and which of its results it is where there are several."""
    calls = {call.id: call.name for message in read.messages for call in message.tool_calls}
    tools = [calls.get(m.tool_call_id) or m.name if m.role == "tool" else None for m in read.messages]
    tool = tools[result]
    if tool is None:
        return "the tool's result"
    number = f"number {tools[: result + 1].count(tool)} " if tools.count(tool) > 1 else ""
    return f"the result {number}of {tool}"
