"""Cases: contexts with spans to erase, and what follows them. One definition, for evaluation, calibration, leakage and
training.

A case is token ids and nothing else, so that an engine runs it directly. `Transcript` makes the cases of a
conversation; suites/ has the sources of cases.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.spans import Target
from kv_memory.conversation.targets import find
from kv_memory.conversation.tool_calls.parser import read_message
from kv_memory.positions import Interval, merge

TEXT = "text"
NEAR, INSIDE = 8, 16
"""Number of tokens on each side of the span that `again` repeats; `INSIDE`: of the span's first tokens."""


@dataclass(frozen=True)
class Case:
    """A context, the spans that are erased from it, and the tokens that follow the erasure."""

    kind: str
    """`TEXT`, or the class of the question."""
    ids: tuple[int, ...]
    spans: tuple[Interval, ...]
    """Intervals to erase, ascending and disjoint."""
    tail: tuple[int, ...] = ()
    """Tokens after the context, up to where the assistant speaks."""
    scored: tuple[int, ...] | None = None
    """Tokens after the tail over which divergence is averaged; None: never-saw's greedy answer."""
    answer: str | None = None
    """Answer that is right if the spans were never read; None where nothing is known to be right."""
    call: str | None = None
    """Name of the tool that has to be called, with `answer` as its arguments in JSON; None for an answer in text."""
    aliases: tuple[str, ...] | None = None
    """Other right answers. Where given, an answer in a sentence is right too; None: only `answer` itself is."""
    wrong: tuple[str, ...] = ()
    """Answers that only the spans give."""
    corrected: tuple[int, ...] | None = None
    """The tail with a sentence in it that says that the spans are wrong: what people do today."""
    suite: str = ""
    name: str = ""
    """Name within the suite, the same in each run with the same seed."""
    conversation: str = ""
    """Name that the cases of one conversation share: they are not independent."""
    groups: Mapping[str, str | int | float] = field(default_factory=dict)
    """Values that tables group cases by, such as {"tokens": 4096, "depth": 0.5}."""

    def right(self, said: str) -> bool:
        """Return whether an answer is right: exactly the right one or, where there are aliases, one that says it."""
        if self.answer is not None and self.call is None and self.aliases is not None:
            return says(said, (self.answer, *self.aliases))
        calls = read_message(said).get("tool_calls")
        if self.answer is None or self.call is None:
            return self.answer is not None and said.strip() == self.answer
        wanted = [(self.call, json.loads(self.answer))]
        made = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls or ()]
        return made == wanted

    def misled(self, said: str) -> bool:
        """Return whether an answer gives what only the spans say, and not what is right."""
        return says(said, self.wrong) and not self.right(said)

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


def says(said: str, answers: Sequence[str]) -> bool:
    """Return whether one of the answers is in a text, in whole words; case, accents and articles do not count."""
    words = _words(said)
    return any(f" {_words(answer)} " in f" {words} " for answer in answers if _words(answer))


def _words(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(word for word in re.findall(r"\w+", plain.replace(",", "")) if word not in ("a", "an", "the"))


def again(ids: tuple[int, ...], span: Interval) -> tuple[int, ...]:
    """Return tokens to score that repeat what is around a span and its first tokens: before it, in it, after it.

    A model that still knows the span expects it there; one that never saw it does not. This needs no labels, and no
    model that answers questions.
    """
    start, end = span
    return ids[max(0, start - NEAR) : min(start + INSIDE, end)] + ids[end : end + NEAR]


def ledger_of(messages: Sequence[Message], encoded: Sequence[Sequence[Piece]]) -> Ledger:
    """Return which cells these messages occupy, encoded by ChatFormat, read as one conversation from the first cell."""
    ledger, at = Ledger(), 0
    for message, pieces in zip(messages, encoded, strict=True):
        ledger.append(message, pieces, at)
        at += sum(len(piece.ids) for piece in pieces)
    return ledger


class Transcript:
    """A conversation as a model's chat template writes it, and the cases that are made of it."""

    def __init__(
        self, form: ChatFormat, messages: Sequence[Mapping[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> None:
        """Encode a conversation. Raises ConversationError where the template cannot express it."""
        self.form = form
        self.tools = tools
        self.messages = parse_messages(messages)
        self.ledger = ledger_of(self.messages, form.encode(self.messages, tools))

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Return the token ids of the conversation."""
        return tuple(self.ledger.token_ids())

    def cells(self, targets: Sequence[Target]) -> tuple[Interval, ...]:
        """Return the positions that the targets mean, as a case's spans; errors as in `targets.find`."""
        return tuple(merge(i for target in targets for chosen in find(self.ledger, target) for i in chosen.intervals()))

    def question(
        self, kind: str, targets: Sequence[Target], question: str, *, named: str | None = None, **facts: Any
    ) -> Case:
        """Return the case of a question that the user asks once the targets are erased.

        `named`: words for the targets, such as "the result of call_1", for the case's `corrected`. `facts`: further
        fields of `Case`.
        """
        case = Case(kind, self.ids, self.cells(targets), self._asked(question), **facts)
        return case if named is None else replace(case, corrected=self._asked(f"{correction(named)}\n\n{question}"))

    def next_turn(
        self,
        kind: str,
        targets: Sequence[Target],
        turn: Mapping[str, Any],
        *,
        named: str | None = None,
        **facts: Any,
    ) -> Case:
        """Return the case in which the assistant's recorded next turn is scored; `named`, `facts` as in `question`."""
        head = self._head(self.messages)
        said = parse_messages([turn])
        ids = self._more([*self.messages, *said], len(self.messages))
        closing = self.form.closing([*self.messages, *said], self.tools).ids
        scored = ids[len(head) :] if ids[: len(head)] == head else ids
        scored = scored[: max(1, len(scored) - len(closing) + 1)]  # with the token that ends the turn
        case = Case(kind, self.ids, self.cells(targets), head, scored, **facts)
        return case if named is None else replace(case, corrected=self._asked(correction(named)))

    def neighbourhood(self, kind: str, targets: Sequence[Target], **facts: Any) -> Case:
        """Return the case in which the surroundings of the targets are read `again`."""
        spans = self.cells(targets)
        return Case(kind, self.ids, spans, (), again(self.ids, (spans[0][0], spans[-1][1])), **facts)

    def _asked(self, question: str) -> tuple[int, ...]:
        messages = [*self.messages, Message("user", question)]
        return (*self._more(messages, len(self.messages)), *self._answering)

    @cached_property
    def _answering(self) -> tuple[int, ...]:
        """Return what makes the assistant speak after a question, the same for all."""
        return self._head([*self.messages, Message("user", "x")])

    def _head(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(self.form.generation_prompt(messages, self.tools).ids)

    def _more(self, messages: Sequence[Message], start: int) -> tuple[int, ...]:
        encoded = self.form.encode(messages, self.tools, start=start)
        return tuple(i for pieces in encoded for piece in pieces for i in piece.ids)


def correction(named: str) -> str:
    """Return the sentence by which a user takes something back in text."""
    return f"{named[:1].upper()}{named[1:]} was wrong. Ignore it."
