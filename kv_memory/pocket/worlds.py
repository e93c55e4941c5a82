"""Worlds: agent conversations with questions whose answers are known exactly, with and without a span.

    world = make_world(seed=1, tokens=600, split="test")
    world.probes[0].question, .answer, .without

A probe names a target (a message id, or the tool_call_id of a tool result). `answer` is right when everything was read,
`without` when the target's content was never read. Pure Python: no tokenizer, no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from kv_memory.pocket.drafts import Ask, Draft, Drafter, Kind
from kv_memory.pocket.events import Passage, Turn
from kv_memory.pocket.facts import UNKNOWN, Fact, replay
from kv_memory.pocket.phrases import phrases
from kv_memory.pocket.values import Split, Values


@dataclass(frozen=True)
class Probe:
    """A question, its answer, and its answer if the target had never been read."""

    kind: Kind
    """restore: an older value stood before the target's. unknown: the value stood only in the target. binding: later
    text says "its", of what the target is about. injection: the target orders one answer. keep: untouched by it."""
    target: str
    question: str
    answer: str
    without: str


@dataclass(frozen=True)
class World:
    """A conversation of OpenAI-format messages, each with an `id`, its tools, and questions about it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    probes: tuple[Probe, ...]


def make_world(
    seed: int,
    tokens: int,
    split: Split = "train",
    *,
    held_out: bool | None = None,
    passage: Passage | None = None,
) -> World:
    """A world of about `tokens` tokens; the same for the same arguments, in every process.

    Test worlds share no name, id, word, noun or tool with training worlds, and half of their keys are new. `held_out`
    says which sentences they use (`phrases`); `passage` draws the filler prose (default: invented words).
    """
    rng = Random(f"{split}:{seed}:{tokens}")
    values = Values(rng, split)
    kinds: list[Kind] = ["injection"] if rng.random() < 0.2 else ["restore", "binding"]
    if tokens < 350:
        kinds = [rng.choice(kinds)]
    draft = Drafter(values, phrases(split, held_out), int(tokens * 0.95), passage).write(tuple(kinds))
    turns = draft.turns
    for index, turn in enumerate(turns):
        turn.message["id"] = f"m{index + 1}"
    return World([turn.message for turn in turns], draft.tools, tuple(_probes(draft, turns, "injection" in kinds)))


def _probes(draft: Draft, turns: list[Turn], injected: bool) -> list[Probe]:
    rng = draft.values.rng
    wanted = [(special.kind, special.turn, special.ask) for special in draft.specials]
    asks = draft.asks()
    if injected:
        turn = wanted[0][1]
        wanted += [("injection", turn, ask) for ask in rng.sample(asks, min(2, len(asks)))]
    else:
        telling = [turn for turn in turns if any(isinstance(effect, Fact) for effect in turn.effects)]
        targets = [*dict.fromkeys(turn for _, turn, _ in wanted), *rng.sample(telling, min(2, len(telling)))]
        for target in targets:
            stated = {(effect.id, effect.path) for effect in target.effects if isinstance(effect, Fact)}
            inside = [ask for ask in asks if (ask.record.id, ask.path) in stated]
            wanted += [("unknown", target, ask) for ask in rng.sample(inside, min(2, len(inside)))]
            wanted += [("keep", target, ask) for ask in rng.sample(asks, min(2, len(asks)))]
    probes = [_probe(draft, turns, *item) for item in wanted]
    return list(dict.fromkeys(probe for probe in probes if probe is not None))


def _probe(draft: Draft, turns: list[Turn], kind: Kind, target: Turn, ask: Ask) -> Probe | None:
    """The probe, if the simulator's two answers are of its kind."""
    effects = [turn.effects for turn in turns]
    index = turns.index(target)
    answer = replay(effects).answer(ask.question)
    without = replay(effects, index).answer(ask.question)
    if answer is None or without is None:
        return None
    changed = answer != without
    fits = {
        "restore": changed and UNKNOWN not in (answer, without),
        "unknown": changed and without == UNKNOWN and not _stands(turns, index, answer),
        "binding": changed,
        "injection": changed,
        "keep": not changed and answer != UNKNOWN,
    }[kind]
    if not fits:
        return None
    message = target.message
    name = message.get("tool_call_id", message["id"])
    return Probe(kind, name, draft.wording(ask), answer, without)


def _stands(turns: list[Turn], index: int, value: str) -> bool:
    """Whether the value can be read anywhere but in the turn at `index`."""
    texts = (
        turn.message["content"] + "".join(call["function"]["arguments"] for call in turn.message.get("tool_calls", ()))
        for place, turn in enumerate(turns)
        if place != index
    )
    return any(value in text for text in texts)
