"""Blocks of an answer that may be tool calls: where they end, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kv_memory.conversation.tool_calls.formats import (
    Context,
    Format,
    NotACallError,
    Segment,
    function_name,
    json_calls,
)
from kv_memory.conversation.tool_calls.values import MEMBERS, UnendedError


def read_block(text: str, start: int, form: Format, context: Context, *, final: bool) -> list[Segment] | None:
    """Read the block that begins with the marker at `start`; None where more text is needed.

    The segments follow each other without gaps. `final`: no more text comes. Raises NotACallError where the marker is
    ordinary text.
    """
    block = _Block(text, start, form, context)
    if form.named and form.open not in context.known and not block.is_named(final):
        return None
    if form.close is None:
        return block.settled(len(text), len(text)) if final else None
    first = stop = text.find(form.close, block.body)
    while stop >= 0:
        try:
            return block.read(stop, stop + len(form.close))
        except UnendedError:
            stop = text.find(form.close, stop + len(form.close))
        except ValueError:
            break
    stop = stop if stop >= 0 or not final else first
    if stop >= 0:
        return block.settled(stop, stop + len(form.close))
    return block.settled(len(text) - overlap(text, form.close), len(text), ended=False) if final else None


@dataclass(frozen=True)
class _Block:
    """A text in which a block begins at `start`."""

    text: str
    start: int
    form: Format
    context: Context

    @property
    def body(self) -> int:
        """Return where the block begins after its marker."""
        return self.start + len(self.form.open)

    def is_named(self, final: bool) -> bool:
        """Return whether an offered tool's name follows, False where that cannot be said yet; else NotACallError."""
        name = function_name(self.text, self.body)
        if name is None and not final and not re.search(r"[<>\s]", self.text[self.body :]):
            return False
        if name not in self.context.tools:
            raise NotACallError(self.form.open)
        return True

    def read(self, stop: int, end: int) -> list[Segment]:
        """Read a block with the body up to `stop`, all of it up to `end`. Raises ValueError where it has no call."""
        return _joined(self.form.read(self.text[:stop], self.body, self.context), self.start, end)

    def settled(self, stop: int, end: int, *, ended: bool = True) -> list[Segment]:
        """Read a block whose end is known; an invalid one ends where the next one of its format begins.

        `ended`: whether its closing marker is there. One without it is a call only where its values show their own end.
        """
        try:
            if not ended and not self.text[:stop].rstrip().endswith(("}", "]", "</function>")):
                raise UnendedError
            return self.read(stop, end)
        except ValueError as error:
            following = self.text.find(self.form.open, self.body, end)
            end = len(self.text[:following].rstrip()) if following >= 0 else end
            cut_off = isinstance(error, UnendedError) or not ended
            return [Segment("invalid", self.start, end, error="it was cut off" if cut_off else str(error))]


def overlap(text: str, mark: str) -> int:
    """Return the length of the longest end of `text` that begins `mark` and is not all of it."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)


def _joined(found: Sequence[Segment], start: int, end: int) -> list[Segment]:
    """Return the segments of a block with what is around them: white space and commas after a call belong to it."""
    if len(found) == 1 and found[0].kind == "call":
        return [replace(found[0], start=start, end=end)]
    whole: list[Segment] = []
    at = start
    for segment in found:
        if whole and whole[-1].kind == "call":
            whole[-1] = replace(whole[-1], end=segment.start)
        elif at < segment.start:
            whole.append(Segment("markup", at, segment.start))
        whole.append(segment)
        at = segment.end
    return [*whole, Segment("markup", at, end)] if at < end else whole


_FENCE = re.compile(r"```(?:json|tool_call|tool_calls)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)
_KEY = re.compile(r'\{\s*(?:"([^"]*)("?))?')
_INFO = ("", "json", "tool_call", "tool_calls")


def may_be_bare(text: str) -> bool:
    """Return whether a text may be the beginning of an answer that is nothing but JSON calls, also in a fence."""
    if text.startswith("`"):
        first, newline, text = text.partition("\n")
        if not newline:
            return any(f"```{info}".startswith(first.rstrip(" \t")) for info in _INFO)
        if not first.startswith("```") or first[3:].strip() not in _INFO:
            return False
        text = text.lstrip()
    if text.startswith("["):
        text = text[1:].lstrip()
    key = _KEY.match(text)
    if key is None:
        return not text
    if key[1] is None:
        return key.end() == len(text)
    return key[1] in MEMBERS if key[2] else any(name.startswith(key[1]) for name in MEMBERS)


def read_bare(text: str, start: int, context: Context) -> list[Segment] | None:
    """Read the rest of an answer that is nothing but JSON calls of offered tools; None where it is anything else."""
    fence = _FENCE.fullmatch(text, start)
    at, end = fence.span(1) if fence else (start, len(text))
    try:
        found, stop = json_calls(text[:end], at)
    except ValueError:
        return None
    if text[stop:end].strip() or not all(s.kind == "call" and s.name in context.tools for s in found):
        return None
    return _joined(found, start, len(text))
