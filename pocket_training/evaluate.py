"""The evaluation of a model on test worlds: exact match by class of question, with the span and without it."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kv_memory.synthetic.drafts import KINDS, TOKENS_WITH_TOOLS
from kv_memory.synthetic.worlds import Probe, World, make_world, reply
from pocket_training.pieces import pieces
from pocket_training.tokenizer import PieceEncoder


@dataclass(frozen=True)
class Case:
    """One question with its right answer."""

    group: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    question: str
    answer: str
    call: str | None = None
    """Name of the tool, for a request that needs one; `answer` is then the arguments, as JSON."""

    @property
    def reply(self) -> dict[str, Any]:
        """Return the right assistant message."""
        return reply(self.answer, self.call)


@dataclass(frozen=True)
class Encoded:
    """A case as tokens."""

    group: str
    question: str
    answer: str
    ids: array[int]
    """The conversation, the question, the right answer and the end of its turn."""
    count: int
    """Number of tokens of the answer, its end included."""
    never: int | None = None
    """Id of the token that calls begin with, for a request that needs no tool: any other beginning is right."""

    def right(self, said: tuple[int, ...]) -> bool:
        """Return whether the most likely tokens in the answer's places make it right."""
        return said == tuple(self.ids[-self.count :]) if self.never is None else said[0] != self.never


@dataclass(frozen=True)
class Outcome:
    """The result of a model on one case."""

    right: bool
    best: tuple[int, ...]
    """The most likely token at each place of the right answer."""


def never_saw(messages: Sequence[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """Return the conversation without the target: a tool result becomes empty, another message is removed."""
    kept = [message for message in messages if message["id"] != target or message["role"] == "tool"]
    return [message | {"content": ""} if message.get("tool_call_id") == target else message for message in kept]


def with_and_without(world: World, probes: Iterable[Probe]) -> Iterator[Case]:
    """Return two cases a probe: with the span ("kind/with") and without it ("kind/without")."""
    for probe in probes:
        read = Case(f"{probe.kind}/with", world.messages, world.tools, probe.question, probe.answer, probe.call)
        messages = never_saw(world.messages, probe.target)
        never = replace(read, group=f"{probe.kind}/without", messages=messages, answer=probe.without)
        yield from (read, never)


def test_cases(tokens: int, each: int, held_out: bool | None = None, first_seed: int = 0) -> list[Case]:
    """Return `each` probes of every class, at most two of a class from one world, from unseen worlds of this many
    tokens."""
    cases: list[Case] = []
    left = dict.fromkeys((kind for kind in KINDS if kind != "call" or tokens >= TOKENS_WITH_TOOLS), each)
    seed = first_seed
    while any(left.values()):
        world = make_world(seed, tokens, "test", held_out=held_out)
        seed += 1
        for kind in left:
            probes = [probe for probe in world.probes if probe.kind == kind][: min(2, left[kind])]
            left[kind] -= len(probes)
            cases += with_and_without(world, probes)
    return cases


def encode(encoder: PieceEncoder, case: Case) -> Encoded:
    """Encode a case as tokens."""
    asked = [*case.messages, {"role": "user", "content": case.question}]
    items = pieces([*asked, case.reply], case.tools)
    parts = encoder.encode(items)
    parts[-1] = parts[-1][:1]  # the end of the turn, without the line break after it
    head = sum(item.message < len(asked) for item in items) + 1  # the pieces up to the answer
    ids = array("h", (token for part in parts for token in part))
    talk = case.group.startswith("call/") and case.call is None
    return Encoded(
        case.group, case.question, case.answer, ids, sum(map(len, parts[head:])), encoder.call_start if talk else None
    )


@torch.inference_mode()
def answer_cases(model: Any, cases: Sequence[Encoded], tokens: int = 65536) -> list[Outcome]:
    """Return whether greedy decoding gives each case's answer and then ends the turn; no call where no tool is needed.

    It is computed in one forward pass over the right answer: greedy decoding gives it exactly if every token of it is
    the most likely one after those before. `tokens` bounds a batch.
    """
    queue = sorted(enumerate(cases), key=lambda item: len(item[1].ids))
    outcomes = [Outcome(False, ())] * len(cases)
    device = next(model.parameters()).device
    while queue:
        rows = max(1, tokens // len(queue[-1][1].ids))
        batch, queue = queue[-rows:], queue[:-rows]
        ids = torch.zeros(len(batch), len(batch[-1][1].ids), dtype=torch.long)
        for row, (_, case) in enumerate(batch):
            ids[row, : len(case.ids)] = torch.frombuffer(case.ids, dtype=torch.int16)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
            ends = [(row, len(case.ids), case.count) for row, (_, case) in enumerate(batch)]
            states = torch.cat([hidden[row, end - count - 1 : end - 1] for row, end, count in ends])
            best = model.lm_head(states).argmax(-1).tolist()
        for index, case in batch:
            said, best = tuple(best[: case.count]), best[case.count :]
            outcomes[index] = Outcome(case.right(said), said)
    return outcomes


def scores(cases: Sequence[Encoded], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of right answers by group."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for case, outcome in zip(cases, outcomes, strict=True):
        groups[case.group].append(outcome.right)
    return {group: round(sum(hits) / len(hits), 4) for group, hits in sorted(groups.items())}
