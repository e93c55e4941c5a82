"""Cases on generated conversations (kv_memory.synthetic.worlds): questions with known answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import parse_messages
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.synthetic.worlds import Probe, World, make_world


def world_text(form: ChatFormat, tokens: int, seed: int) -> list[int]:
    """Return at least this many tokens of generated conversations, as this model's chat template writes them."""
    ids: list[int] = []
    while len(ids) < tokens:
        world = make_world(seed, 1024, "test")
        ids += [i for pieces in form.encode(parse_messages(world.messages), world.tools) for p in pieces for i in p.ids]
        seed += 1
    return ids


def message_cases(form: ChatFormat, tokens: int, seed: int) -> Iterator[Case]:
    """Yield, without end, cases of generated conversations of about `tokens` tokens, with a message as the span.

    The messages are those that questions are about. Later text refers to them, as it does to what is really retracted;
    it seldom does to a span at a random place.
    """
    for world_seed in count(seed):
        world = make_world(world_seed, tokens, "test")
        targets = {probe.target: probe for probe in world.probes}
        yield from world_cases(form, world, list(targets.values()))


def world_cases(form: ChatFormat, world: World, probes: Sequence[Probe]) -> Iterator[Case]:
    """Yield one case per probe: the conversation, the cells of what the probe names, and the question."""
    if not probes:
        return
    read = Transcript(form, world.messages, world.tools)
    for probe in probes:
        yield read.question(probe.kind, [probe.target], probe.question, answer=probe.without, call=probe.call)
