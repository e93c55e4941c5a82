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
from typing import Any

from kv_memory.arguments import tools_as_json
from kv_memory.conversation.call_bounds import CallBounds, common_prefix
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.parts import Part, PieceKind, joined, places_of
from kv_memory.conversation.sentinels import OwnerRun, Plain, Sentinel, Sentinels
from kv_memory.conversation.template import TemplateTraits, adapt
from kv_memory.conversation.tool_calls.known import known_markers
from kv_memory.engines.base import Tokenizer
from kv_memory.errors import ConversationError
from kv_memory.positions import Interval, merge

MOST_KNOWN = 10_000
"""Texts of which it is remembered whether they hold structure tokens."""


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


class Layout:
    """A conversation as the template writes it: whose each stretch of the text is, in the order of the text."""

    def __init__(
        self, form: ChatFormat, messages: Sequence[Message], stretches: Sequence[tuple[int, list[Part]]]
    ) -> None:
        self._form = form
        self._messages = messages
        stretches = joined(stretches)
        self._stretches = stretches
        """Parts in the order of the text, each with the index of its message."""
        self._own: list[list[Part]] = [[] for _ in messages]
        for owner, parts in stretches:
            self._own[owner] += parts

    def flow(self, start: int = 0, cuts: Mapping[int, Cuts] | None = None) -> list[tuple[int, Piece]]:
        """Return the pieces of `messages[start:]` in the order of the text, each with the index of its message.

        `cuts`, by message index, are left out as if they had never been written.
        """
        return [
            (owner, piece)
            for owner, parts in self._stretches
            if owner >= start
            for part in parts
            for piece in self._form.pieces(part, self._messages[owner], (cuts or {}).get(owner, Cuts()))
        ]

    def scaffold(self, index: int) -> list[int]:
        """Return the ids of all that is around the content and the calls of one message."""
        parts = (part for part in self._own[index] if part.kind == "scaffold")
        pieces = (self._form.pieces(part, self._messages[index], Cuts()) for part in parts)
        return [i for found in pieces for piece in found for i in piece.ids]

    def text(self, index: int) -> str:
        """Return the text of one message, with its content and its calls."""
        return "".join(part.lead + part.text for part in self._own[index])

    def covered(self, index: int) -> list[Interval]:
        """Return the characters of a content that the template writes."""
        content = self._messages[index].content
        found = (places_of(content, part.text, part.start) for part in self._own[index] if part.kind == "content")
        return merge((places[0], places[-1]) for places in found)

    def calls(self, index: int, cuts: Cuts) -> list[tuple[int, ...]]:
        """Return the tokens of the calls of one message that are not cut."""
        parts = (part for part in self._own[index] if part.kind == "call")
        return [piece.ids for part in parts for piece in self._form.pieces(part, self._messages[index], cuts)]

    def thinks(self, index: int) -> bool:
        """Return whether the template writes thoughts that came beside the content."""
        return any(part.kind == "reasoning" for part in self._own[index])

    def closed(self, count: int) -> int:
        """Return the most messages, at most `count` from the first on, whose text comes before that of all others.

        It is fewer where the template moves a message to another place, as some do with a late system message.
        """
        owners = [owner for owner, _ in self._stretches]
        while count:
            first = next((i for i, owner in enumerate(owners) if owner >= count), len(owners))
            if all(owner >= count for owner in owners[first:]):
                break
            count -= 1
        return count


class ChatFormat:
    """The conversion of conversations to tokens for one model, by its chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(4)
        self._traits = {False: TemplateTraits.probe(tokenizer)}
        """Traits of the template in conversations without tools and, once there is one, with them."""
        self.markers = known_markers(tokenizer)
        """Markers of tool calls and channels that mean something to the model."""
        self._splits: dict[tuple[str, str, str], int] = {}
        self._scaffold: dict[tuple[str, str], tuple[int, ...]] = {}
        self._known: dict[str, bool] = {}
        """Whether a text of a tool or a call holds a structure token: asked again in each call."""

    @property
    def calls_tools(self) -> bool:
        """Return whether the model's own template lists tools and writes calls of them."""
        traits = self._traits_with(True)
        return traits.lists_tools and traits.calls

    def encode(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        start: int = 0,
        cuts: Mapping[int, Cuts] | None = None,
    ) -> list[list[Piece]]:
        """Return the pieces of `messages[start:]`, one list per message; where the template keeps the order of the
        messages, their ids in order are what to prefill.

        `cuts`, by message index, are left out as if they had never been written. Raises ConversationError where the
        template cannot express the conversation.
        """
        found: list[list[Piece]] = [[] for _ in messages[start:]]
        for owner, piece in self.layout(messages, tools).flow(start, cuts):
            found[owner - start].append(piece)
        return found

    def count(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None, *, answer: bool = True
    ) -> int:
        """Return the number of tokens of a conversation; with `answer` as it is read before one, with what makes the
        assistant speak. Raises as `encode`."""
        head = self.head(messages, tools) if answer else ""
        flow = self.layout(messages, tools, head=head).flow()
        return sum(len(piece.ids) for _, piece in flow) + len(self.scaffold(head).ids)

    def layout(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None, *, head: str = ""
    ) -> Layout:
        """Return the conversation as the template writes it; with a `head` as it does right before an answer, without
        that head. Raises as `encode`."""
        sentinels, text = self._render(messages, tools, generate=bool(head))
        real = self._write(messages, tools, Plain(), generate=bool(head))
        found, exact = sentinels.written(text, real)
        blank = [not message.content.strip() and not message.tool_calls for message in messages]
        if not exact and any(blank):  # templates ask whether there is a content
            plainly = self._render(messages, tools, generate=bool(head), keep_blank=True)
            again, exact = plainly[0].written(plainly[1], real)
            exact = exact and bool(plainly[0].runs(plainly[1]))
            if exact:
                (sentinels, text), found = plainly, again
        text = text.removesuffix(head)
        runs = sentinels.runs(text)
        left_out = {i for i in range(len(messages)) if not (exact and blank[i])} - {run.owner for run in runs}
        if left_out:
            i = min(left_out)
            raise ConversationError(f"The model's chat template leaves message {i} ({messages[i].role}) out.")
        bounds = self._bounds(runs, text, messages, tools)
        written = iter(found)
        seen: set[int] = set()
        return Layout(
            self,
            messages,
            [
                (run.owner, list(self._parts(sentinels, text[start:end], messages[run.owner], written, seen)))
                for run, (start, end) in zip(runs, pairwise(bounds), strict=True)
            ],
        )

    def generation_prompt(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> Piece:
        """Return the tokens of `head`."""
        return self.scaffold(self.head(messages, tools))

    def head(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> str:
        """Return what the template writes after the last message to make the assistant speak."""
        sentinels, with_head = self._render(messages, tools, generate=True)
        _, without = self._render(messages, tools, generate=False)
        if not with_head.startswith(without):
            end, tail = sentinels.end(with_head), without[sentinels.end(without) :]
            return with_head[end + common_prefix(with_head[end:], tail) :]
        return with_head[len(without) :]

    def closing(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> Piece:
        """Return the tokens of `end`."""
        return self.scaffold(self.end(messages, tools))

    def end(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> str:
        """Return what the template writes after the text of the last message, which is an assistant's."""
        last = Message("assistant", "x")  # a sentinel must stand for the text even where the message has none
        sentinels, text = self._render([*messages[:-1], last], tools, generate=False)
        return text[sentinels.end(text) :]

    def tokens_in(self, message: Message, cuts: Cuts) -> int:
        """Return the approximate number of tokens of these parts of a message."""
        parts = [message.content[start:end] for start, end in cuts.chars]
        parts += [f"{message.tool_calls[i].name}{message.tool_calls[i].arguments}" for i in cuts.calls]
        return sum(len(self._tokenizer.encode(part, special=False)[0]) for part in parts)

    def _render(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None,
        *,
        generate: bool,
        keep_blank: bool = False,
    ) -> tuple[Sentinels, str]:
        tools_as_json(tools)  # refuses what the template could not be given
        sentinels = Sentinels(self._nonce, keep_blank=keep_blank)
        return sentinels, self._write(messages, tools, sentinels, generate=generate)

    def _write(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None,
        sentinels: Sentinels | Plain,
        *,
        generate: bool,
    ) -> str:
        traits = self._traits_with(bool(tools))
        rendered, shown_tools = adapt(messages, tools, sentinels, traits, self._structured)
        return self._tokenizer.render(rendered, shown_tools, generate)

    def _traits_with(self, tools: bool) -> TemplateTraits:
        if tools not in self._traits:
            self._traits[tools] = TemplateTraits.probe(self._tokenizer, with_tools=tools)
        return self._traits[tools]

    def _bounds(
        self, runs: Sequence[OwnerRun], text: str, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> list[int]:
        """Return where in the rendered text each run of a message begins, and where the last one ends."""
        bounds = [0]
        for run, following in pairwise(runs):
            gap = text[run.end : following.start]
            key = (gap, messages[run.owner].role, messages[following.owner].role)
            if key not in self._splits:
                tail = self._tail(messages[: run.owner + 1], tools)
                tail = text[runs[-1].end :] if tail is None else tail
                self._splits[key] = self._whole_tokens(gap, common_prefix(gap, tail))
            bounds.append(run.end + self._splits[key])
        return [*bounds, len(text)]

    def _whole_tokens(self, text: str, length: int) -> int:
        """Return the length of the tokens of a scaffolding that end within the first `length` characters."""
        ends = [end for _, end in self._tokenizer.encode(text, special=True)[1]]
        return max((end for end in ends if end <= length), default=0)

    def _tail(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> str | None:
        """Return what the template writes after the last message where none follows; None where it does not take the
        messages alone, as one that looks for the first message of the user."""
        try:
            sentinels, alone = self._render(messages, tools, generate=False)
        except ConversationError:
            return None
        runs = sentinels.runs(alone)
        return alone[runs[-1].end :] if runs and runs[-1].owner == len(messages) - 1 else None

    def _parts(
        self, sentinels: Sentinels, text: str, message: Message, written: Iterator[str], seen: set[int]
    ) -> Iterator[Part]:
        """Yield the parts of a message. `written`: what each sentinel stands for; none where that is not known. `seen`:
        numbers of the sentinels of calls before it: a name that is written again, with its result, is no call."""
        pairs = list(sentinels.split(text))
        bounds = CallBounds.of(pairs)
        call: int | None = None
        said: list[tuple[str, bool]] = []  # the current tool call: one piece, as the model would have written it
        before: Sentinel | None = None
        for between, sentinel in pairs:
            again = sentinel is not None and sentinel.call is not None and sentinel.number in seen
            literal, next_call = between, sentinel.call if sentinel and not again else None
            if sentinel is not None and next_call is not None:
                seen.add(sentinel.number)
            if call is not None and call == next_call:
                said, literal = [*said, (literal, True)], ""
            elif call is not None:
                end = bounds.end(literal, said)
                said, literal = [*said, (literal[:end], True)], literal[end:]
                yield Part("call", "".join(part for part, _ in said), call, within=tuple(said))
            if next_call is not None and call != next_call:
                start = bounds.start(literal, first=call is None)
                said, literal = [(literal[start:], True)], literal[:start]
            if literal and _is_content(literal, before, sentinel, message):
                yield Part("content", literal, start=sentinel.start - len(literal) if sentinel else 0)
            elif literal:
                yield Part("scaffold", literal, trusted=True)
            call, before = next_call, sentinel
            if sentinel is None:
                return
            found = next(written, sentinel.written)
            if call is not None:
                said.append((found, False))
            elif sentinel.kind == "content":
                yield Part("content", found, start=sentinel.start)
            elif sentinel.kind == "reasoning":
                yield Part("reasoning", found)
            elif found:
                yield Part("scaffold", found)

    def pieces(self, part: Part, message: Message, cuts: Cuts) -> Iterator[Piece]:
        """Yield the tokens of a part of a message, less `cuts`."""
        if part.kind == "content":
            yield from self._content(part, message, cuts)
        elif part.trusted:
            yield self.scaffold(part.text, part.after)
        elif part.kind == "scaffold":
            yield Piece("scaffold", self._untrusted(part))
        elif part.kind == "reasoning":
            yield from () if message.wholly_in(cuts) else (Piece("reasoning", self._untrusted(part)),)
        elif part.call not in cuts.calls:
            yield Piece("call", self._call(part), call=part.call)

    def _call(self, part: Part) -> tuple[int, ...]:
        within = [(part.lead, True), *part.within]
        if not any(self._structured(text) for text, trusted in within if not trusted):
            return tuple(self._encode(part.lead + part.text, special=True, after=part.after)[0])
        ids: list[int] = []
        after = part.after
        for text, trusted in within:
            ids += self._encode(text, special=trusted, after=after)[0]
            after = text or after
        return tuple(ids)

    def _untrusted(self, part: Part) -> tuple[int, ...]:
        return tuple(self._encode(part.lead + part.text, special=False, after=part.after)[0])

    def _encode(self, text: str, *, special: bool, after: str) -> tuple[list[int], list[tuple[int, int]]]:
        if not getattr(self._tokenizer, "adds_space", False):  # tokenizers of other engines may not know of it
            return self._tokenizer.encode(text, special=special)
        return self._tokenizer.encode(text, special=special, after=after)

    def _structured(self, text: str) -> bool:
        """Return whether a text holds a structure token of the model."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        if text not in self._known:
            trusted, plain = (self._tokenizer.encode(text, special=special)[0] for special in (True, False))
            self._known[text] = trusted != plain
        return self._known[text]

    def _content(self, part: Part, message: Message, cuts: Cuts) -> Iterator[Piece]:
        places = places_of(message.content, part.text, part.start)
        start, end = places[0], places[-1]
        edges = {start, end} | {c for cut in cuts.chars for c in cut}
        edges |= {edge for document in message.documents for edge in (document.start, document.end)}
        for a, b in pairwise(sorted(edge for edge in edges if start <= edge <= end)):
            cut = any(cut_start <= a and b <= cut_end for cut_start, cut_end in cuts.chars)
            first, last = bisect_left(places, a), bisect_left(places, b)
            lead, after = ("", "\n") if first else (part.lead, part.after)
            if cut and not lead:
                continue
            ids, found = self._encode(lead + part.text[first:last], special=False, after=after)
            if lead and found[0] == (0, len(lead)):  # no token of the content
                yield Piece("lead", (ids[0],))
                ids, found = ids[1:], found[1:]
            if cut:
                continue
            offsets = [(max(0, x - len(lead)), max(0, y - len(lead))) for x, y in found]
            chars = tuple(
                (places[first + x], places[first + y - 1] + 1 if y > x else places[first + y]) for x, y in offsets
            )
            yield Piece("content", tuple(ids), chars)

    def scaffold(self, text: str, after: str = "\n") -> Piece:
        """Return the tokens of a text that the template's author wrote after another text."""
        key = text, after
        if key not in self._scaffold:
            self._scaffold[key] = tuple(self._encode(text, special=True, after=after)[0])
        return Piece("scaffold", self._scaffold[key])


def _is_content(literal: str, before: Sentinel | None, after: Sentinel | None, message: Message) -> bool:
    """Return whether a text between two stretches of the content is content itself: a tag around thoughts."""
    if before is None or after is None or {before.kind, after.kind} != {"content"}:
        return False
    return literal == message.content[before.start + len(before.text) : after.start]
