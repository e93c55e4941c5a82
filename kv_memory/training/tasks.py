"""Stage 2, fine-tuning on tasks: questions on generated conversations whose span is erased.

Each conversation has superseded facts, facts of the span alone, text that refers back to it, injected orders and facts
that it does not touch (kv_memory.synthetic.worlds); long ones are haystacks of other records and prose. A query ends in
the answer that is right without the span. The loss still compares with never-saw, so that a model which answers
differently is not taught to answer so.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.evaluation.suites.worlds import world_cases
from kv_memory.synthetic.drafts import Kind
from kv_memory.synthetic.values import Split
from kv_memory.synthetic.worlds import World, make_world
from kv_memory.training.batch import Example
from kv_memory.training.queries import query_of


class WorldExamples:
    """The source of stage 2 examples, for the model that the chat format belongs to."""

    def __init__(self, form: ChatFormat, split: Split = "train", questions: int = 6) -> None:
        """Set up the source; `questions`: largest number of questions about one span."""
        self.form = form
        self.split: Split = split
        self.questions = questions

    def draw(self, rng: Random, tokens: int, balance: Mapping[Kind, float] | None = None) -> Example:
        """Draw an example on a conversation of about this many tokens; `balance` as in `Plan`."""
        while True:
            world = make_world(rng.randrange(1 << 40), tokens, self.split, asked=max(2, self.questions // 3))
            if not world.probes:
                continue
            kinds = sorted({probe.kind for probe in world.probes})
            kind = rng.choices(kinds, [(balance or {}).get(kind, 1.0) for kind in kinds])[0]
            targets = sorted({probe.target for probe in world.probes if probe.kind == kind})
            example = self.example(world, rng.choice(targets))
            if example is not None:
                return example

    def example(self, world: World, target: str) -> Example | None:
        """Return the example whose questions are about this target; None if its span is empty or in parts."""
        probes = [probe for probe in world.probes if probe.target == target]
        kinds = {probe.kind: probe for probe in probes}  # one of each kind first
        probes = [*kinds.values(), *(probe for probe in probes if probe is not kinds[probe.kind])][: self.questions]
        cases = list(world_cases(self.form, world, probes))
        if len(cases[0].spans) != 1:
            return None
        ids, (start, end) = cases[0].ids, cases[0].spans[0]
        queries = tuple(query_of(self.form, case) for case in cases)
        return Example(ids[:start], ids[start:end], ids[end:], queries)
