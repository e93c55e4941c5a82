"""Cases: contexts with spans to erase and text after them, and questions with known answers.

A case is token ids and nothing else, so that an engine runs it directly. Text cases need no labels and serve any model;
world cases are questions on generated conversations (kv_memory.synthetic.worlds), which most chat models can answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.spans import Target
from kv_memory.conversation.targets import find
from kv_memory.conversation.tool_calls.parser import read_message
from kv_memory.errors import ConversationError
from kv_memory.positions import Interval, merge
from kv_memory.synthetic.worlds import Probe, World, make_world

TEXT = "text"
NEAR, INSIDE = 8, 16
"""Number of tokens on each side of the span that a text case's tail repeats; `INSIDE`: of the span's first tokens."""


@dataclass(frozen=True)
class Case:
    """A context, the spans that are erased from it, and the tokens that follow the erasure."""

    kind: str
    """`TEXT`, or the class of the question."""
    ids: tuple[int, ...]
    spans: tuple[Interval, ...]
    """Intervals to erase, ascending and disjoint."""
    tail: tuple[int, ...]
    """Tokens after the context. Text: those over which divergence is averaged. A question: its tokens, up to where the
    assistant speaks."""
    answer: str | None = None
    """Answer that is right if the spans were never read; None for text."""
    call: str | None = None
    """Name of the tool that has to be called, with `answer` as its arguments in JSON; None for an answer in text."""

    def right(self, said: str) -> bool:
        """Return whether an answer is exactly the right one."""
        calls = read_message(said).get("tool_calls")
        if self.answer is None or self.call is None:
            return self.answer is not None and said.strip() == self.answer
        wanted = [(self.call, json.loads(self.answer))]
        made = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls or ()]
        return made == wanted

    @property
    def kept(self) -> list[int]:
        """Return the ids outside the spans."""
        gone = {position for start, end in self.spans for position in range(start, end)}
        return [token for position, token in enumerate(self.ids) if position not in gone]

    @property
    def erased(self) -> int:
        """Return the number of tokens in the spans."""
        return sum(end - start for start, end in self.spans)

    @property
    def following(self) -> int:
        """Return the number of kept tokens after the first span's start."""
        return len(self.ids) - self.spans[0][0] - self.erased


def text_cases(ids: Sequence[int], head: Sequence[int], span: int, following: int, rng: Random) -> Iterator[Case]:
    """Yield, without end, cases with a span of `span` tokens at a random place of a text. `head`: the start of every
    context.

    Before the span are as many tokens of text as in the span, plus a tenth of `following`, at least `NEAR`. The tail is
    `again`: what really follows seldom depends on the span. Raises ConversationError for a text that is too short.
    """
    before = max(NEAR, span + following // 10)
    length = before + span + following
    if len(ids) < length:
        raise ConversationError(
            f"The text has {len(ids):,} tokens; {length:,} are needed for a span of {span} with {following:,} after "
            "it: give a longer text, or shorter lengths."
        )
    start = len(head) + before

    def case(at: int) -> Case:
        context, where = (*head, *ids[at : at + length]), (start, start + span)
        return Case(TEXT, context, (where,), again(context, where))

    return (case(rng.randint(0, len(ids) - length)) for _ in count())


def context_head(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that the model's contexts begin with, if there is one: much attention may rest on it."""
    ids: Any = tokenizer("a")["input_ids"]
    return [ids[0]] if ids and ids[0] == tokenizer.bos_token_id else []


def again(ids: tuple[int, ...], span: Interval) -> tuple[int, ...]:
    """Return a tail that repeats what is around a span and its first tokens: before it, in it, after it.

    A model that still knows the span expects it there; one that never saw it does not. This needs no labels, and no
    model that answers questions.
    """
    start, end = span
    return ids[max(0, start - NEAR) : min(start + INSIDE, end)] + ids[end : end + NEAR]


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


def ledger_of(messages: Sequence[Message], encoded: Sequence[Sequence[Piece]]) -> Ledger:
    """Return which cells these messages occupy, encoded by ChatFormat, read as one conversation from the first cell."""
    ledger, at = Ledger(), 0
    for message, pieces in zip(messages, encoded, strict=True):
        ledger.append(message, pieces, at)
        at += sum(len(piece.ids) for piece in pieces)
    return ledger


def cells_of(ledger: Ledger, target: Target) -> tuple[Interval, ...]:
    """Return the positions that the target means, as a case's spans; errors as in `targets.find`."""
    return tuple(merge(i for chosen in find(ledger, target) for i in chosen.intervals()))


def world_cases(form: ChatFormat, world: World, probes: Sequence[Probe]) -> Iterator[Case]:
    """Yield one case per probe: the conversation, the cells of what the probe names, and the question."""
    if not probes:
        return
    messages = parse_messages(world.messages)
    ledger = ledger_of(messages, form.encode(messages, world.tools))
    ids = tuple(ledger.token_ids())
    spans = {target: cells_of(ledger, target) for target in {probe.target for probe in probes}}
    head = form.generation_prompt([*messages, Message("user", probes[0].question)], world.tools).ids  # the same for all
    for probe in probes:
        asked = [*messages, Message("user", probe.question)]
        question = [i for piece in form.encode(asked, world.tools, start=len(messages))[0] for i in piece.ids]
        yield Case(probe.kind, ids, spans[probe.target], (*question, *head), probe.without, probe.call)
