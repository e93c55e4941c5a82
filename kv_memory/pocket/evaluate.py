"""Exact match of a model on test worlds, by class of question, with the span and without it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kv_memory.pocket.drafts import KINDS
from kv_memory.pocket.pieces import pieces
from kv_memory.pocket.tokenizer import PieceEncoder
from kv_memory.pocket.worlds import Probe, World, make_world


@dataclass(frozen=True)
class Case:
    """One question with its right answer."""

    group: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    question: str
    answer: str


@dataclass(frozen=True)
class Outcome:
    """How a model did on one case."""

    right: bool
    best: tuple[int, ...]
    """The most likely token at each place of the right answer."""


def never_saw(messages: Sequence[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """The conversation without the target: a tool result becomes empty, another message goes."""
    kept = [message for message in messages if message["id"] != target or message["role"] == "tool"]
    return [message | {"content": ""} if message.get("tool_call_id") == target else message for message in kept]


def world_cases(world: World, probes: Iterable[Probe]) -> Iterator[Case]:
    """Two cases a probe: with the span ("kind/with") and without it ("kind/without")."""
    for probe in probes:
        yield Case(f"{probe.kind}/with", world.messages, world.tools, probe.question, probe.answer)
        messages = never_saw(world.messages, probe.target)
        yield Case(f"{probe.kind}/without", messages, world.tools, probe.question, probe.without)


def test_cases(tokens: int, each: int, held_out: bool | None = None, first_seed: int = 0) -> list[Case]:
    """`each` probes of every class, at most two of a class from one world, from unseen worlds of this many tokens."""
    cases: list[Case] = []
    left = dict.fromkeys(KINDS, each)
    seed = first_seed
    while any(left.values()):
        world = make_world(seed, tokens, "test", held_out=held_out)
        seed += 1
        for kind in KINDS:
            probes = [probe for probe in world.probes if probe.kind == kind][: min(2, left[kind])]
            left[kind] -= len(probes)
            cases += world_cases(world, probes)
    return cases


@torch.inference_mode()
def answer_cases(model: Any, encoder: PieceEncoder, cases: Sequence[Case], tokens: int = 65536) -> list[Outcome]:
    """Whether greedy decoding gives each case's answer and then ends the turn.

    Read off one forward pass over the right answer: greedy decoding gives it exactly if every token of it is the most
    likely one after those before. `tokens` bounds a batch.
    """
    encoded: list[tuple[int, list[int], int]] = []
    for index, case in enumerate(cases):
        asked = [*case.messages, {"role": "user", "content": case.question}]
        items = pieces([*asked, {"role": "assistant", "content": case.answer}], case.tools)
        parts = encoder.encode(items)
        parts[-1] = parts[-1][:1]  # the end of the turn, without the line break after it
        encoded.append((index, [token for part in parts for token in part], len(parts[-1]) + len(parts[-2])))
    encoded.sort(key=lambda item: len(item[1]))
    outcomes = [Outcome(False, ())] * len(cases)
    device = next(model.parameters()).device
    while encoded:
        rows = max(1, tokens // len(encoded[-1][1]))
        batch, encoded = encoded[-rows:], encoded[:-rows]
        length = len(batch[-1][1])
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        for row, (_, item, _) in enumerate(batch):
            ids[row, : len(item)] = torch.tensor(item)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
            for row, (index, item, count) in enumerate(batch):
                best = model.lm_head(hidden[row, len(item) - count - 1 : len(item) - 1]).argmax(-1)
                outcomes[index] = Outcome(best.tolist() == item[-count:], tuple(best.tolist()))
    return outcomes


def scores(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The share of right answers by group."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for case, outcome in zip(cases, outcomes, strict=True):
        groups[case.group].append(outcome.right)
    return {group: round(sum(hits) / len(hits), 4) for group, hits in sorted(groups.items())}
