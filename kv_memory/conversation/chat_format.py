"""Messages to tokens, without trusting the text.

Scaffolding (roles, tool wrappers) is what the model's own chat template writes around the contents; each content is
tokenized apart with special tokens disabled. To tell the two apart the template is rendered over *sentinels* that stand
for the contents; the sentinels then say which message each stretch of the rendered text belongs to. Spans come from
these pieces, never from searching text. This module knows nothing of cells.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal

from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.sentinels import Sentinels
from kv_memory.conversation.template import TemplateTraits, adapt
from kv_memory.engines.base import Tokenizer
from kv_memory.errors import ConversationError
from kv_memory.positions import Interval, merge

PieceKind = Literal["scaffold", "content", "call"]


@dataclass(frozen=True)
class Piece:
    """Tokens of one message that were tokenized together."""

    kind: PieceKind
    ids: tuple[int, ...]
    chars: tuple[Interval, ...] | None = None
    """Character intervals of the message's content that each token stands for; None unless `kind` is "content"."""
    call: int | None = None
    """Number of the tool call within the message; None unless `kind` is "call"."""

    def chars_of(self, tokens: Interval) -> Interval:
        """Return the characters that these tokens, [start, end) by index, stand for."""
        assert self.chars is not None, "asked of content"
        return self.chars[tokens[0]][0], self.chars[tokens[1] - 1][1]

    def touched(self, cuts: Iterable[Interval]) -> list[Interval]:
        """Return the tokens, as intervals of indices, that share a character with the cuts or with such a token.

        A character of several bytes may be split over several tokens; they are erased together.
        """
        starts, ends = self._edges
        found: list[Interval] = []
        for cut in merge(cuts):
            start, end = cut
            while True:
                first, last = bisect_right(ends, start), bisect_left(starts, end)
                while first and starts[first - 1] == ends[first - 1] == start:
                    first -= 1
                if first >= last or (starts[first] >= start and ends[last - 1] <= end):
                    break
                start, end = min(start, starts[first]), max(end, ends[last - 1])
            found.append((first, max(first, last)))
        return merge(found)

    @cached_property
    def _edges(self) -> tuple[list[int], list[int]]:
        """The starts and the ends of `chars`, ascending: looked up for each retraction of a long message."""
        chars = self.chars or ()
        return list(accumulate((start for start, _ in chars), max)), list(accumulate((end for _, end in chars), max))


class ChatFormat:
    """The conversion of conversations to tokens for one model, by its chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(4)
        self._traits = TemplateTraits.probe(tokenizer)
        self._splits: dict[tuple[str, str, str], int] = {}
        self._scaffold: dict[str, tuple[int, ...]] = {}

    def encode(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        start: int = 0,
        cuts: Mapping[int, Cuts] | None = None,
    ) -> list[list[Piece]]:
        """Return the pieces of `messages[start:]`, one list per message; their ids in order are what to prefill.

        `cuts`, by message index, are left out as if they had never been written. Raises ConversationError where the
        template cannot express the conversation.
        """
        sentinels, text = self._render(messages, tools, generate=False)
        bounds = self._bounds(sentinels, text, messages, tools)
        cuts = cuts or {}
        return [
            list(self._pieces(sentinels, text[bounds[i] : bounds[i + 1]], messages[i], cuts.get(i, Cuts())))
            for i in range(start, len(messages))
        ]

    def generation_prompt(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> Piece:
        """Return what the template writes after the last message to make the assistant speak."""
        sentinels, with_head = self._render(messages, tools, generate=True)
        _, without = self._render(messages, tools, generate=False)
        if not with_head.startswith(without):
            end = sentinels.extents(with_head)[len(messages) - 1][1]
            tail = without[sentinels.extents(without)[len(messages) - 1][1] :]
            return self._scaffold_piece(with_head[end + _common_prefix(with_head[end:], tail) :])
        return self._scaffold_piece(with_head[len(without) :])

    def closing(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> Piece:
        """Return what the template writes after the text of the last message, which is an assistant's."""
        last = Message("assistant", "x")  # a sentinel must stand for the text even where the message has none
        sentinels, text = self._render([*messages[:-1], last], tools, generate=False)
        return self._scaffold_piece(text[sentinels.extents(text)[len(messages) - 1][1] :])

    def tokens_in(self, message: Message, cuts: Cuts) -> int:
        """Return the approximate number of tokens of these parts of a message."""
        parts = [message.content[start:end] for start, end in cuts.chars]
        parts += [f"{message.tool_calls[i].name}{message.tool_calls[i].arguments}" for i in cuts.calls]
        return sum(len(self._tokenizer.encode(part, special=False)[0]) for part in parts)

    def _render(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None, *, generate: bool
    ) -> tuple[Sentinels, str]:
        sentinels = Sentinels(self._nonce)
        rendered, shown_tools = adapt(messages, tools, sentinels, self._traits)
        return sentinels, self._tokenizer.render(rendered, shown_tools, generate)

    def _bounds(
        self, sentinels: Sentinels, text: str, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """Return where in the rendered text each message begins, and where the last one ends."""
        extents = sentinels.extents(text)
        for i, message in enumerate(messages):
            if i not in extents:
                raise ConversationError(f"The model's chat template leaves message {i} ({message.role}) out.")
        bounds = [0]
        for i in range(len(messages) - 1):
            end = extents[i][1]
            gap = text[end : extents[i + 1][0]]
            key = (gap, messages[i].role, messages[i + 1].role)
            if key not in self._splits:
                self._splits[key] = self._tail_length(gap, messages[: i + 1], tools)
            bounds.append(end + self._splits[key])
        return [*bounds, len(text)]

    def _tail_length(self, gap: str, messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> int:
        """Return how much of the text between two contents closes the first: what the template also writes without a
        second."""
        sentinels, alone = self._render(messages, tools, generate=False)
        return _common_prefix(gap, alone[sentinels.extents(alone)[len(messages) - 1][1] :])

    def _pieces(self, sentinels: Sentinels, text: str, message: Message, cuts: Cuts) -> Iterator[Piece]:
        call: int | None = None
        # The JSON around a call's sentinels belongs to the call, up to the nearest line break or tag on either side.
        said = ""  # text of the current tool call: one piece, tokenized as the model would have written it
        for between, sentinel in sentinels.split(text):
            literal, next_call = between, sentinel.call if sentinel else None
            if call is not None and call == next_call:
                said, literal = said + literal, ""
            elif call is not None:
                said, literal = said + _until(literal, "\n<"), literal[len(_until(literal, "\n<")) :]
                if call not in cuts.calls:
                    yield Piece("call", tuple(self._tokenizer.encode(said, special=False)[0]), call=call)
            if next_call is not None and call != next_call:
                said = _until(literal[::-1], "\n>")[::-1]
                literal = literal[: len(literal) - len(said)]
            if literal:
                yield self._scaffold_piece(literal)
            call = next_call
            if sentinel is None:
                return
            if call is not None:
                said += sentinel.written
            elif sentinel.kind == "content":
                yield from self._content(message, cuts)
            elif sentinel.text:
                yield Piece("scaffold", tuple(self._tokenizer.encode(sentinel.written, special=False)[0]))

    def _content(self, message: Message, cuts: Cuts) -> Iterator[Piece]:
        text = message.content
        start, end = 0, len(text)
        if self._traits.trims:
            start, end = len(text) - len(text.lstrip()), max(len(text.rstrip()), len(text) - len(text.lstrip()))
        edges = {start, end} | {c for cut in cuts.chars for c in cut}
        edges |= {edge for document in message.documents for edge in (document.start, document.end)}
        for a, b in pairwise(sorted(edge for edge in edges if start <= edge <= end)):
            if any(cut_start <= a and b <= cut_end for cut_start, cut_end in cuts.chars):
                continue
            ids, offsets = self._tokenizer.encode(text[a:b], special=False)
            yield Piece("content", tuple(ids), tuple((a + x, a + y) for x, y in offsets))

    def _scaffold_piece(self, text: str) -> Piece:
        if text not in self._scaffold:
            self._scaffold[text] = tuple(self._tokenizer.encode(text, special=True)[0])
        return Piece("scaffold", self._scaffold[text])


def _until(text: str, stops: str) -> str:
    """Return the start of `text` up to the first of the characters `stops`."""
    return text[: next((i for i, c in enumerate(text) if c in stops), len(text))]


def _common_prefix(a: str, b: str) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
