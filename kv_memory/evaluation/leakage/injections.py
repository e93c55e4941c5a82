"""Injections as spans: orders in tool results that the pocket model obeys, and those of two public collections.

InjecAgent (Zhan et al., arXiv 2403.02691) and AgentDojo (Debenedetti et al., arXiv 2406.13352): the injected text
within a tool result is erased. Residual influence is measured as a calibration does
(kv_memory.evaluation.cases.again).
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.spans import CharRange
from kv_memory.erasers import ERASERS
from kv_memory.evaluation import agentdojo
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.cases import TEXT, Case, Transcript
from kv_memory.evaluation.leakage.scenes import TOKENS, Messages
from kv_memory.evaluation.leakage.treatments import HEALED, erased, holding
from kv_memory.evaluation.leakage.views import answers
from kv_memory.evaluation.trial import trial
from kv_memory.sessions.memory import Memory
from kv_memory.synthetic.worlds import make_world

FILES = {
    "InjecAgent": "injecagent_direct_harm.jsonl.gz",
    "AgentDojo": f"{agentdojo.FILE}.gz",
}
LONGEST = 4096
"""Most tokens of a conversation; longer ones are left out."""
_FIRST = 7_000_000


@dataclass(frozen=True)
class Obeyed:
    """The answers to one question under an order."""

    ordered: str
    said: dict[str, str]
    """Answers by treatment, never-saw's included."""


def order(memory: Memory, number: int, erasers: Sequence[str]) -> Obeyed | None:
    """Ask a question in an unseen world where a tool result orders one answer to all; None where the world has none."""
    world = make_world(_FIRST + number, TOKENS, "test")
    probe = next((probe for probe in world.probes if probe.kind == "injection"), None)
    if probe is None:
        return None
    said = {}
    with holding(memory, world.messages, world.tools) as read:
        for how in (NO_ERASE, *erasers):
            with erased(read, [probe.target], how) as session:
                said[how] = answers(memory, session, world.messages, [probe.question], world.tools)[0]
    with holding(memory, world.messages, world.tools, [probe.target]) as never:
        said[NEVER_SAW] = answers(memory, never, world.messages, [probe.question], world.tools)[0]
    return Obeyed(probe.answer, said)


def residuals(memory: Memory, case: Case, erasers: Sequence[str]) -> dict[str, float]:
    """Return the mean KL from never-saw, in nats, with nothing erased and after each eraser."""
    with memory.engine.lock, trial(memory.engine, case) as this:
        found = {NO_ERASE: this.run(None).kl}
        for how in erasers:
            if how != HEALED:  # for a single erasure healing gives the same as recompute
                found[how] = this.run(ERASERS[how]()).kl
    return found


def injected(form: ChatFormat, folder: Path, source: str) -> Iterator[Case]:
    """Yield the conversations of a collection with an injection in a tool result, as cases, in the file's order."""
    with gzip.open(folder / FILES[source], "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    found = _injecagent(records) if source == "InjecAgent" else filter(None, map(agentdojo.injected, records))
    for messages, target in found:
        case = _case(form, messages, target)
        if len(case.ids) <= LONGEST:
            yield case


def _case(form: ChatFormat, messages: Messages, target: CharRange) -> Case:
    return Transcript(form, messages).neighbourhood(TEXT, [target])


def _injecagent(records: Sequence[dict[str, Any]]) -> Iterator[tuple[Messages, CharRange]]:
    """Yield each injected response, followed by the clean responses of two other requests."""
    for number, record in enumerate(records):
        order, response = record["Attacker Instruction"], record["Tool Response"]
        at = response.find(order)
        if at < 0:
            continue
        messages = _request(record, response, 0)
        for step in (1, 2):
            other = records[(number + 37 * step) % len(records)]
            clean = other["Tool Response Template"].replace("<Attacker Instruction>", "")
            messages += _request(other, clean, step)
        yield messages, CharRange(message="result0", start=at, end=at + len(order))


def _request(record: dict[str, Any], response: str, step: int) -> Messages:
    arguments = ast.literal_eval(record["Tool Parameters"])  # the file has Python's form
    function = {"name": record["User Tool"], "arguments": arguments}
    call = {"id": f"call{step}", "type": "function", "function": function}
    result = {"role": "tool", "tool_call_id": f"call{step}", "name": record["User Tool"], "content": response}
    return [
        {"role": "user", "content": record["User Instruction"], "id": f"user{step}"},
        {"role": "assistant", "content": "", "tool_calls": [call], "id": f"assistant{step}"},
        {**result, "id": f"result{step}"},
    ]
