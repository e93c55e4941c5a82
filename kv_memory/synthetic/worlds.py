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

from kv_memory.synthetic.drafter import Drafter
from kv_memory.synthetic.drafts import TOKENS_WITH_TOOLS, Ask, Draft, Kind
from kv_memory.synthetic.events import Passage, Turn
from kv_memory.synthetic.facts import UNKNOWN, Fact, replay
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.tools.toolbox import Toolbox
from kv_memory.synthetic.values import Split, Values


@dataclass(frozen=True)
class Probe:
    """A question, its answer, and its answer if the target had never been read."""

    kind: Kind
    """Kind of the question, by how the target matters to it. restore: an older value was there before the target's.
    unknown: the value was only in the target. binding: later text says "its", "that order's" or "the second one's", of
    what the target is about. injection: the target orders one answer. preference: it asks for a form of answers.
    two-hop: a field of what another field names, whatever the target. keep: untouched by it. call: a request for a
    tool, or for none, whatever the target."""
    target: str
    question: str
    answer: str
    without: str
    call: str | None = None
    """Name of the tool, for a request that needs one; `answer` and `without` are then the arguments, as JSON."""


def reply(answer: str, call: str | None) -> dict[str, Any]:
    """Return the assistant message that gives this answer; `call` as in `Probe`."""
    if call is None:
        return {"role": "assistant", "content": answer}
    function = {"name": call, "arguments": answer}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call", "type": "function", "function": function}],
    }


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
    asked: int = 2,
) -> World:
    """Make a world of about `tokens` tokens; the same for the same arguments, in every process.

    Test worlds share no name, id, word, noun or tool with training worlds, and half of their keys are new. `held_out`
    says which sentences they use (`Phrases`); `passage` draws the filler prose (default: invented words); `asked` is
    how many questions of a kind are asked about one target, where there are many. It leaves the conversation as it is.
    """
    rng = Random(f"{split}:{seed}:{tokens}")
    values = Values(rng, split)
    draft = Drafter(values, Phrases(split, held_out), int(tokens * 0.95), passage).write(_kinds(rng, tokens))
    turns = draft.turns
    for index, turn in enumerate(turns):
        turn.message["id"] = f"m{index + 1}"
    return World([turn.message for turn in turns], draft.tools, tuple(_probes(draft, turns, asked)))


def _kinds(rng: Random, tokens: int) -> list[Kind]:
    """Return the kinds of question that a world has spans for."""
    if rng.random() < 0.15:
        return ["injection"]
    kinds: list[Kind] = ["restore", "binding", "two-hop"]
    kinds = rng.sample(kinds, 1 if tokens < 700 else 2 if tokens < 1500 else 3)
    if rng.random() < 0.3:
        kinds.append("preference")
    elif rng.random() < (0 if tokens < TOKENS_WITH_TOOLS else 0.5):
        kinds.append("call")
    return kinds


def _probes(draft: Draft, turns: list[Turn], asked: int) -> list[Probe]:
    rng = draft.values.rng
    wanted = [(special.kind, special.turn, special.ask) for special in draft.specials]
    asks = draft.asks()
    for kind, turn, ask in list(wanted):
        if kind in ("injection", "preference"):
            wanted += [(kind, turn, other) for other in rng.sample(asks, min(asked, len(asks)))]
        elif kind == "two-hop":
            wanted.append((kind, rng.choice(turns), ask))
    telling = [turn for turn in turns if any(isinstance(effect, Fact) for effect in turn.effects)]
    targets = [*dict.fromkeys(turn for _, turn, _ in wanted), *rng.sample(telling, min(2, len(telling)))]
    for target in targets:
        stated = {(effect.id, effect.path) for effect in target.effects if isinstance(effect, Fact)}
        inside = [ask for ask in asks if (ask.record.id, ask.path) in stated]
        wanted += [("unknown", target, ask) for ask in rng.sample(inside, min(asked, len(inside)))]
        wanted += [("keep", target, ask) for ask in rng.sample(asks, min(asked, len(asks)))]
    rng.shuffle(wanted)
    probes = [_probe(draft, turns, *item) for item in wanted if _erasable(item[1])]
    found = list(dict.fromkeys(probe for probe in probes if probe is not None))
    if draft.toolbox is not None:
        found += [_call(draft.toolbox, rng.choice([turn for turn in turns if _erasable(turn)])) for _ in range(3)]
    return found


def _call(toolbox: Toolbox, target: Turn) -> Probe:
    """Return a request that needs one of the tools, or none, whatever the target says."""
    if toolbox.values.rng.random() < 0.2:
        asked, reply = toolbox.chat()
        return Probe("call", _name(target), asked, reply, reply)
    request = toolbox.request()
    return Probe("call", _name(target), request.text, request.written, request.written, request.name)


def _probe(draft: Draft, turns: list[Turn], kind: Kind, target: Turn, ask: Ask) -> Probe | None:
    """Return the probe if the simulator's two answers fit its kind."""
    effects = [turn.effects for turn in turns]
    index = turns.index(target)
    read, never = replay(effects), replay(effects, index)
    answer, without = read.answer(ask.question), never.answer(ask.question)
    value, left = read.look_up(ask.question), never.look_up(ask.question)
    if answer is None or without is None or value is None or left is None:
        return None
    changed = answer != without
    fits = {
        "restore": changed and UNKNOWN not in (value, left),
        "unknown": changed and left == UNKNOWN and not _stands(turns, index, value),
        "binding": changed,
        "injection": changed,
        "preference": changed,
        "two-hop": read.order is None and value != UNKNOWN,
        "keep": read.order is None and not changed and value != UNKNOWN,
        "call": False,  # nothing that is asked about a record
    }[kind]
    if not fits:
        return None
    return Probe(kind, _name(target), draft.wording(ask), answer, without)


def _erasable(turn: Turn) -> bool:
    return turn.message["role"] in ("user", "tool")


def _name(target: Turn) -> str:
    return str(target.message.get("tool_call_id", target.message["id"]))


def _stands(turns: list[Turn], index: int, value: str) -> bool:
    """Return whether the value can be read anywhere but in the turn at `index`."""
    texts = (
        turn.message["content"] + "".join(call["function"]["arguments"] for call in turn.message.get("tool_calls", ()))
        for place, turn in enumerate(turns)
        if place != index
    )
    return any(value in text for text in texts)
