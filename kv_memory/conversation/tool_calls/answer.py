"""An answer as far as it was read: what each character of it is, and the message that it makes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from kv_memory.conversation.tool_calls.formats import Segment
from kv_memory.conversation.tool_calls.parts import InvalidCall, ReplyPart
from kv_memory.conversation.tool_calls.values import dumps

REASONING_KEY = "thinking"
"""Field of the message for thoughts that come in a channel of their own, as gpt-oss's template knows it."""
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]+)"|(?:<function=|to=functions\.)([^\s<>"]+)')


def call_id(answer_id: str, number: int) -> str:
    """Return the id of tool call `number` of an answer."""
    return f"call_{answer_id}{number or ''}"


class Answer:
    """The segments of an answer so far, without gaps, and its content, reasoning and calls."""

    def __init__(self, answer_id: str) -> None:
        self.text = ""
        """All that the model wrote."""
        self.segments: list[Segment] = []
        self.content = ""
        self.reasoning = ""
        self.calls: list[dict[str, Any]] = []
        self.invalid_calls: list[InvalidCall] = []
        self._id = answer_id
        self._parts: list[ReplyPart] = []

    def message(self) -> dict[str, Any]:
        """Return the message of the assistant, in OpenAI's format."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message[REASONING_KEY] = self.reasoning
        return {**message, "tool_calls": self.calls} if self.calls else message

    def take(self) -> list[ReplyPart]:
        """Return the parts that were added since the last time."""
        taken, self._parts = self._parts, []
        return taken

    def add_text(self, kind: Literal["content", "reasoning"], start: int, end: int) -> None:
        """Add these characters to the content or the reasoning; a line break parts them from what came before calls."""
        if start == end:
            return
        known = self.content if kind == "content" else self.reasoning
        alike = ("content", "invalid") if kind == "content" else ("reasoning",)
        gap = "\n" if known and self.segments[-1].kind not in alike else ""
        said, place = gap + self.text[start:end], len(known) + len(gap)
        if kind == "content":
            self.content += said
        else:
            self.reasoning += said
            place = 0
        last = self.segments[-1] if self.segments else None
        if last is not None and last.kind == kind:
            self.segments[-1] = replace(last, end=end)
        else:
            self.segments.append(Segment(kind, start, end, place=place))
        self._parts.append(ReplyPart(kind, said))

    def add_markup(self, start: int, end: int) -> None:
        """Add characters that are markers or white space around calls; white space after a call belongs to it."""
        last = self.segments[-1] if self.segments else None
        if last is not None and last.kind == "call" and not self.text[start:end].strip():
            self.segments[-1] = replace(last, end=end)
        elif start < end:
            self.segments.append(Segment("markup", start, end))

    def add_call(self, segment: Segment) -> None:
        """Add a call."""
        function = {"name": segment.name, "arguments": dumps(segment.arguments)}
        call = {"id": call_id(self._id, len(self.calls)), "type": "function", "function": function}
        self.calls.append(call)
        self.segments.append(segment)
        self._parts.append(ReplyPart("call", call=call))

    def add_invalid(self, segment: Segment, kind: Literal["content", "reasoning"] = "content") -> None:
        """Add a call that cannot be run; its text is content, or reasoning."""
        text = self.text[segment.start : segment.end]
        self.add_text(kind, segment.start, segment.end)
        named = _NAME.search(text)
        invalid = InvalidCall(
            name=(named[1] or named[2]) if named else None,
            text=text,
            error=f"This is no tool call that can be run: {segment.error}.",
        )
        self.invalid_calls.append(invalid)
        self._parts.append(ReplyPart("invalid", invalid=invalid))
