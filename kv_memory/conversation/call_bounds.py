"""Where a tool call begins and ends in the text of a message, which the template has written around its sentinels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kv_memory.conversation.sentinels import Sentinel

_TAG = re.compile(r"\s*(<[^<>\s]*>)")
_CLOSING = re.compile(r"</([^<>\s]+)>")


@dataclass(frozen=True)
class CallBounds:
    """The bounds of the calls of one message.

    What is around the sentinels of a call belongs to it up to the nearest line break or tag on either side, and tags
    that it has opened. Calls in one list have neither between them: there the bounds are what all calls have in common.
    """

    opening: str | None = None
    """Text before the first sentinel of each call of a list."""
    closing: str = ""
    """Text after the last sentinel of each call of a list."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, Sentinel | None]]) -> CallBounds:
        """Return the bounds in a text that is split into pairs of a literal and the sentinel after it."""
        calls = [None if sentinel is None else sentinel.call for _, sentinel in pairs]
        literals = [literal for literal, _ in pairs]
        joints = [
            literals[i]
            for i in range(1, len(calls))
            if calls[i - 1] is not None and calls[i] is not None and calls[i] != calls[i - 1]
        ]
        if not joints or _until(joints[0], "\n<") != joints[0]:
            return cls()
        first = next(i for i, call in enumerate(calls) if call is not None)
        last = max(i for i, call in enumerate(calls) if call is not None)
        before = _until(literals[first][::-1], "\n>")
        opening = before[: common_prefix(before, joints[0][::-1])][::-1]
        between = joints[0][: len(joints[0]) - len(opening)]
        return cls(opening, between[: common_prefix(between, literals[last + 1] if last + 1 < len(literals) else "")])

    def start(self, literal: str, *, first: bool) -> int:
        """Return where in the text before it a call begins; it is the `first` of its kind, or follows another."""
        if self.opening is None:
            return len(literal) - len(_until(literal[::-1], "\n>"))
        return len(literal) - len(self.opening) if first and literal.endswith(self.opening) else 0

    def end(self, literal: str, said: Sequence[tuple[str, bool]]) -> int:
        """Return where in the text after its last sentinel a call ends. `said`: its text, and what the template wrote
        of that."""
        if self.opening is not None and literal.startswith(self.closing):
            return len(self.closing)
        inside = "".join(text for text, trusted in said if trusted)
        end = len(_until(literal, "\n<"))
        while tag := _TAG.match(literal, end):
            closed = _CLOSING.fullmatch(tag[1])
            if tag[1] not in inside and not (closed and re.search(rf"<{re.escape(closed[1])}[\s=>]", inside)):
                break
            end = tag.end() + len(_until(literal[tag.end() :], "\n<"))
        return end


def common_prefix(a: str, b: str) -> int:
    """Return the length of the longest beginning that two texts share."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def _until(text: str, stops: str) -> str:
    """Return the start of `text` up to the first of the characters `stops`."""
    return text[: next((i for i, c in enumerate(text) if c in stops), len(text))]
