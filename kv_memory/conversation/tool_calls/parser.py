"""The parser of answers: from text as it comes to content, reasoning, tool calls, and calls that cannot be run.

What it makes of a text does not depend on the pieces in which the text comes: a part is given out as soon as nothing
that may follow can change it. A call is given out once it is complete. Nothing that the model wrote is left out but the
markers of calls and channels and the white space around them, and nothing is raised.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from kv_memory.conversation.tool_calls.answer import Answer
from kv_memory.conversation.tool_calls.blocks import may_be_bare, overlap, read_bare, read_block
from kv_memory.conversation.tool_calls.channels import ChannelParser
from kv_memory.conversation.tool_calls.formats import (
    AROUND,
    FORMATS,
    HERMES,
    THOUGHTS,
    Context,
    Format,
    Known,
    NotACallError,
    Segment,
    Tools,
    skip,
)
from kv_memory.conversation.tool_calls.parts import ReplyPart
from kv_memory.engines.markers import CHANNEL


class AnswerParser:
    """A parser of one answer: `push` each piece of its text, then `finish`; see `answer` for all that was read."""

    def __init__(
        self,
        answer_id: str,
        tools: Iterable[Any] | None = None,
        known: Known = frozenset(),
        *,
        head: str = "",
        calls: bool = True,
    ) -> None:
        """Create a parser.

        `answer_id`: what the ids of calls are made from. `tools`: those that are offered, in OpenAI's format; JSON
        without markers is a call only of one of them. `known`: the markers that mean something to the model (see
        `known_markers`). `head`: what the template wrote before the answer; it may have begun the thoughts. `calls`:
        whether it may call tools; if not, what looks like a call is content.
        """
        self.answer = Answer(answer_id)
        context = Context(known, schemas_of(tools) if calls else {}, calls)
        parser = ChannelParser if CHANNEL in known else _MarkerParser
        self._parser = parser(self.answer, context, head)

    def push(self, text: str) -> list[ReplyPart]:
        """Return the parts that became final with this text."""
        self.answer.text += text
        while self._parser.advance(final=False):
            pass
        return self.answer.take()

    def finish(self) -> list[ReplyPart]:
        """Return the rest, when no more text comes."""
        while self._parser.advance(final=True):
            pass
        return self.answer.take()


def read_message(text: str, answer_id: str | None = None, tools: Iterable[Any] | None = None) -> dict[str, Any]:
    """Return the message that an answer makes, with content and tool calls, where nothing is known of the model.

    The ids of the calls are made from `answer_id`, by default drawn at random.
    """
    parser = AnswerParser(answer_id or uuid.uuid4().hex[:12], tools)
    parser.push(text)
    parser.finish()
    return parser.answer.message()


def schemas_of(tools: Iterable[Any] | None) -> Tools:
    """Return the schemas of the parameters of each tool, by name; what is not in OpenAI's format is left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            found[function["name"]] = properties if isinstance(properties, Mapping) else {}
    return found


class _MarkerParser:
    """A reader of answers in which markers begin calls and thoughts, and all else is content."""

    def __init__(self, answer: Answer, context: Context, head: str) -> None:
        self._answer = answer
        self._context = context
        self._formats = {
            form.open: form
            for form in FORMATS
            if context.calls and (form.named or form.open == HERMES or form.open in context.known)
        }
        around = [AROUND[name] for name in self._formats if name in AROUND]
        self._opening = {begin for begin, _ in around}
        self._closing = {form.close for form in self._formats.values() if form.close} | {end for _, end in around}
        self._marks = [*self._formats, *self._opening, *self._closing, *THOUGHTS]
        self._pattern = re.compile("|".join(map(re.escape, self._marks)))
        self._longest = max(map(len, self._marks))
        self._at = 0
        """All before it is read."""
        self._searched = 0
        """Before it is no marker that counts."""
        self._block: tuple[int, Format] | None = None
        self._thought = _begun_thought(head)
        """Marker that ends the thoughts; empty where there are none now."""
        self._bare = bool(context.tools)
        """Whether the answer may still turn out to be JSON calls without markers: only thoughts came so far."""
        self._after_call = False
        self._opened = False
        """Whether a marker before all calls came right before `_searched`: it is text unless a call follows."""

    def advance(self, *, final: bool) -> bool:
        """Read on as far as one part; return whether there may be more to read."""
        if self._thought:
            return self._think(final)
        if self._bare:
            held = self._read_bare(final)
            if held is not None:
                return held
        if self._block is None:
            return self._find(final)
        return self._read_block(*self._block, final)

    def _think(self, final: bool) -> bool:
        text = self._answer.text
        found = text.find(self._thought, self._at)
        if found >= 0:
            end = found + len(self._thought)
            self._thought = ""
        else:
            end = len(text) if final else len(text) - overlap(text[self._at :], self._thought)
        self._say(end, words=False)
        return found >= 0

    def _read_bare(self, final: bool) -> bool | None:
        """Return whether to read on; None where the answer is read like any other."""
        text = self._answer.text
        start = skip(text, self._at)
        if not may_be_bare(text[start:]):
            return None
        if not final:
            return False
        self._bare = False
        found = read_bare(text, start, self._context) if start < len(text) else None
        if found is not None:
            self._place(found)
        return None if found is None else True

    def _find(self, final: bool) -> bool:
        text = self._answer.text
        found = self._pattern.search(text, max(self._at, self._searched))
        if found is None:
            self._words(final)
            return False
        mark, start = found[0], found.start()
        if mark in self._closing and not (self._after_call and not text[self._at : start].strip()):
            self._searched, self._opened = found.end(), False
            return True
        if not (self._opened and not text[self._searched : start].strip()):
            self._say(self._at + len(text[self._at : start].rstrip()))
        self._opened = mark in self._opening
        if self._opened:
            self._searched = found.end()
        elif mark in THOUGHTS:
            self._say(found.end(), words=False)
            self._thought = THOUGHTS[mark]
        elif mark in self._formats:
            self._block = (start, self._formats[mark])
        else:
            self._place([Segment("markup", start, found.end())])
        return True

    def _words(self, final: bool) -> None:
        """Give out the text in which no marker is, but for its end, which may become one or white space before one."""
        text = self._answer.text
        end = len(text)
        if not final:
            tail = text[max(self._at, self._searched, end - self._longest) :]
            end -= max(overlap(tail, mark) for mark in self._marks)
            end = self._at + len(text[self._at : end].rstrip())
            if self._opened and not text[self._searched : end].strip():
                return
        self._opened = False
        self._say(end)

    def _read_block(self, start: int, form: Format, final: bool) -> bool:
        try:
            found = read_block(self._answer.text, start, form, self._context, final=final)
        except NotACallError:
            self._block, self._searched = None, start + len(form.open)
            return True
        if found is not None:
            self._block = None
            self._place(found)
        return found is not None

    def _place(self, found: list[Segment]) -> None:
        """Add the segments of a block. The text between `_at` and it is content where the block is, else markup."""
        self._bare = False
        for segment in found:
            if segment.kind == "content":
                self._say(segment.end)
            elif segment.kind == "invalid":
                self._say(segment.start)
                self._answer.add_invalid(segment)
                self._after_call = False
            else:
                self._answer.add_markup(self._at, segment.start)
                if segment.kind == "call":
                    self._answer.add_call(segment)
                else:
                    self._answer.add_markup(segment.start, segment.end)
                self._after_call = True
            self._at = segment.end

    def _say(self, end: int, *, words: bool = True) -> None:
        """Add the text up to `end` to the content; white space after a call is left out. `words`: it is no thought."""
        if self._after_call:
            start = min(skip(self._answer.text, self._at), end)
            self._answer.add_markup(self._at, start)
            self._at = start
        if self._at < end:
            self._after_call = False
            self._bare = self._bare and not (words and self._answer.text[self._at : end].strip())
            self._answer.add_text("content", self._at, end)
            self._at = end


def _begun_thought(head: str) -> str:
    """Return the marker that ends the thoughts which a template began; empty where it began none."""
    return next((close for mark, close in THOUGHTS.items() if head.rfind(mark) > head.rfind(close)), "")
