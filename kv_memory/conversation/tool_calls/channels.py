"""Answers in channels, as gpt-oss writes them: thoughts, calls of tools, and what it says, each with a head."""

from __future__ import annotations

import re
from typing import Literal

from kv_memory.conversation.tool_calls.answer import Answer
from kv_memory.conversation.tool_calls.blocks import overlap
from kv_memory.conversation.tool_calls.formats import Context, Segment
from kv_memory.conversation.tool_calls.values import arguments_of, decode, name_of
from kv_memory.engines.markers import CHANNEL, CHANNELS

MESSAGE, START = "<|message|>", "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_STOP = re.compile("|".join(re.escape(mark) for mark in (*_ENDS, START, CHANNEL)))
_HEAD = re.compile(
    r"\s*(?:<\|start\|>assistant)?\s*(?:to=(?P<before>[^\s<]+))?\s*<\|channel\|>\s*(?P<channel>analysis|commentary|final)"
    r"\s*(?:to=(?P<after>[^\s<]+))?\s*(?:<\|constrain\|>)?\s*(?:json|code|text)?\s*<\|message\|>"
)


class ChannelParser:
    """A reader of such an answer. What it says is in the final channel; the analysis and the commentary are thoughts.

    NOTE: gpt-oss's template refuses a message with thoughts, content and calls. So after a call everything is thoughts,
    and after content a call is an invalid one; a model that keeps to its format does neither.
    """

    def __init__(self, answer: Answer, context: Context, head: str) -> None:
        self._answer = answer
        self._at = 0
        self._body: Literal["content", "reasoning", ""] = ""
        """Where the text goes; empty before a head."""

    def advance(self, *, final: bool) -> bool:
        """Read on as far as one part; return whether there may be more to read."""
        return self._read_body(final) if self._body else self._read_head(final)

    def _read_head(self, final: bool) -> bool:
        text = self._answer.text
        message = text.find(MESSAGE, self._at)
        if message < 0:
            if final:
                self._say(len(text), "content")
            return False
        begin, head = self._at, None
        while head is None and begin <= message:  # what is before the head is text
            head = _HEAD.fullmatch(text, begin, message + len(MESSAGE))
            if head is None:
                found = [at for at in (text.find(mark, begin + 1, message) for mark in (START, CHANNEL)) if at >= 0]
                begin = min(found, default=message + 1)
        if head is None:
            self._say(message + len(MESSAGE), "content")
            return True
        recipient = head["before"] or head["after"]
        if recipient:
            return self._read_call(begin, head.end(), recipient, final)
        self._say(begin, "content")
        self._answer.add_markup(begin, head.end())
        self._at = head.end()
        self._body = "content" if head["channel"] == "final" and not self._answer.calls else "reasoning"
        return True

    def _read_body(self, final: bool) -> bool:
        text = self._answer.text
        found = _STOP.search(text, self._at)
        assert self._body, "a head came before"
        if found is None:
            end = len(text) if final else len(text) - max(overlap(text[self._at :], mark) for mark in CHANNELS)
            self._answer.add_text(self._body, self._at, end)
            self._at = end
            return False
        self._answer.add_text(self._body, self._at, found.start())
        self._at = found.end() if found[0] in _ENDS else found.start()
        self._answer.add_markup(found.start(), self._at)
        self._body = ""
        return True

    def _read_call(self, begin: int, body: int, recipient: str, final: bool) -> bool:
        text = self._answer.text
        found = _STOP.search(text, body)
        if found is None and not final:
            return False
        stop = found.start() if found else len(text)
        end = found.end() if found and found[0] in _ENDS else stop
        self._say(begin, "content")
        try:
            if self._answer.content:
                raise ValueError("it comes after the answer's text")
            value, done = decode(text[:stop].rstrip(), body + _blank(text[body:stop]))
            if text[done:stop].strip():
                raise ValueError("something follows its JSON")
            call = Segment("call", begin, end, name_of(recipient.removeprefix("functions.")), arguments_of(value))
            self._answer.add_call(call)
        except ValueError as error:
            reason = str(error) if found else "it was cut off"
            self._answer.add_invalid(Segment("invalid", begin, end, error=reason), self._kind("content"))
        self._at = end
        return True

    def _say(self, end: int, kind: Literal["content", "reasoning"]) -> None:
        if self._at < end and not self._answer.text[self._at : end].strip():
            self._answer.add_markup(self._at, end)
        else:
            self._answer.add_text(self._kind(kind), self._at, end)
        self._at = end

    def _kind(self, kind: Literal["content", "reasoning"]) -> Literal["content", "reasoning"]:
        return "reasoning" if self._answer.calls else kind


def _blank(text: str) -> int:
    return len(text) - len(text.lstrip())
