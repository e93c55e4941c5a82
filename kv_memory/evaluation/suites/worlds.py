"""Cases on generated conversations (kv_memory.synthetic.worlds): questions with known answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.synthetic.worlds import Probe, World


def world_cases(form: ChatFormat, world: World, probes: Sequence[Probe]) -> Iterator[Case]:
    """Yield one case per probe: the conversation, the cells of what the probe names, and the question."""
    if not probes:
        return
    read = Transcript(form, world.messages, world.tools)
    for probe in probes:
        yield read.question(probe.kind, [probe.target], probe.question, answer=probe.without, call=probe.call)
