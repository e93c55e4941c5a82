"""A model's text, as it comes, split into what it says and the tool calls that it makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*')

Part = str | ToolCallChunk


class CallStream:
    """A parser of the model's text that yields the words, and each call's name and then its arguments as they grow.

    White space before a call, and whatever is between calls, is left out, as it is in the reply's message.
    """

    def __init__(self, call_id: Callable[[int], str]) -> None:
        self._call_id = call_id
        self._pending = ""
        self._calls = 0
        self._arguments: _Arguments | None = None
        self._in_call = False
        self.said = ""
        """Words that were yielded so far."""

    def push(self, text: str) -> Iterator[Part]:
        """Yield the parts that became final with this text."""
        self._pending += text
        while self._pending:
            before = self._pending
            yield from self._in_a_call() if self._in_call else self._outside()
            if self._pending == before:
                return

    def _outside(self) -> Iterator[Part]:
        words, mark, rest = self._pending.partition(OPEN)
        if mark:
            self._in_call, self._pending = True, rest
            words = words.rstrip()
        else:
            kept = _possible_start(words)
            self._pending = words[kept:]
            words = words[:kept]
        if words and not self._calls:
            self.said += words
            yield words

    def _in_a_call(self) -> Iterator[Part]:
        if self._arguments is None:
            head = _HEAD.match(self._pending)
            if head and head.end() < len(self._pending):
                self._pending = self._pending[head.end() :]
                self._arguments = _Arguments()
                number, self._calls = self._calls, self._calls + 1
                yield tool_call_chunk(name=head[1], args="", id=self._call_id(number), index=number)
            return
        inside, end, rest = self._pending.partition(CLOSE)
        if not end:
            cut = len(inside) - _overlap(inside, CLOSE)
            inside, rest = inside[:cut], inside[cut:]
        args = self._arguments.push(inside)
        if args:
            yield tool_call_chunk(name=None, args=args, id=None, index=self._calls - 1)
        self._pending = rest
        if end:
            self._in_call, self._arguments = False, None


class _Arguments:
    """The JSON value that a call's arguments are, without the brace that closes the call after it."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self._ended = False

    def push(self, text: str) -> str:
        for i, char in enumerate(text):
            if self._ended:
                return text[:i]
            self._read(char)
        return text

    def _read(self, char: str) -> None:
        if self._in_string:
            self._in_string = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
        elif char == '"':
            self._in_string = True
        else:
            self._depth += (char in "{[") - (char in "}]")
        self._ended = self._depth == 0 and not self._in_string


def _possible_start(words: str) -> int:
    """Return where the end of `words` begins that may still become white space and a call."""
    cut = len(words) - _overlap(words, OPEN)
    return len(words[:cut].rstrip())


def _overlap(text: str, mark: str) -> int:
    """Return the length of the longest end of `text` that begins `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
