"""Policies: which messages of a conversation have turned out stale, wrong or hostile. Each only looks and decides.

A message that is already empty is left alone, so that a policy comes to the same decisions whenever it is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.convert import text_of
from langchain_kv_memory.decisions import Decision
from langchain_kv_memory.placed import documents_in

PROVENANCE = "kv_memory"
"""The key of `ToolMessage.response_metadata` under which the middleware notes which tool ran, and when."""


class Policy(Protocol):
    """Anything with this method can be given to `RetractionMiddleware`."""

    def decide(self, messages: Sequence[BaseMessage]) -> Iterable[Decision]:
        """What is to be retracted of these messages. Asked before each model call; may block."""


class SupersededToolResult:
    """A tool result goes when a later call of the same thing has succeeded.

    `key`: what a call is about; calls with equal keys are about the same thing, and None is about nothing. By default
    the tool and all its arguments.
    """

    def __init__(self, key: Callable[[ToolCall], Hashable | None] | None = None) -> None:
        self._key = key or _tool_and_arguments

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """All results of a key but the last that is no error."""
        calls = {call["id"]: call for m in messages if isinstance(m, AIMessage) for call in m.tool_calls}
        results = [m for m in _standing_results(messages) if m.tool_call_id in calls]
        keys = [self._key(calls[m.tool_call_id]) for m in results]
        last = {key: i for i, key in enumerate(keys) if results[i].status != "error"}
        for i, (message, key) in enumerate(zip(results, keys, strict=True)):
            if key is not None and i < last.get(key, 0):
                yield Decision(message, f"superseded by {results[last[key]].tool_call_id}")


class ToolError:
    """An error goes once it has served: the same tool has succeeded since, or the user has taken the next turn."""

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """The errors that have served."""
        turn = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=0)
        late = {id(m) for m in messages[turn:]}
        results = _standing_results(messages)
        for i, message in enumerate(results):
            succeeded = any(m.name == message.name and m.status != "error" for m in results[i + 1 :])
            if message.status == "error" and (succeeded or id(message) not in late):
                yield Decision(message, "tool error")


class TimeToLive:
    """A tool result goes when it is older than `seconds`; with `tools`, those of these tools alone."""

    def __init__(
        self, seconds: float, *, tools: Collection[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._seconds = seconds
        self._tools = tools
        self._clock = clock

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """The results that are too old. One that ran without the middleware has no age."""
        now = self._clock()
        for message in _standing_results(messages):
            at = message.response_metadata.get(PROVENANCE, {}).get("at")
            if at is not None and now - at > self._seconds and (self._tools is None or message.name in self._tools):
                yield Decision(message, f"older than {self._seconds:g} seconds")


class FlaggedContent:
    """What a detector flags goes: an injected sentence, a secret, personal data.

    `detector` is given the text of a message and returns the character intervals [start, end) to retract. It is asked
    about every message of these types before each model call, so that it can find later what it did not know before;
    a costly one should remember what it has seen.
    """

    def __init__(
        self,
        detector: Callable[[str], Iterable[tuple[int, int]]],
        *,
        types: Collection[str] = ("tool",),
        reason: str = "flagged by a detector",
    ) -> None:
        self._detector = detector
        self._types = types
        self._reason = reason

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """The flagged characters."""
        for message in messages:
            text = text_of(message)
            if message.type in self._types and text:
                for start, end in self._detector(text):
                    yield Decision(message, self._reason, (start, end))


class ChangedDocument:
    """A document goes, wherever it stands, when it was deleted from its index or written anew."""

    def __init__(self, changes: DocumentChanges) -> None:
        self._changes = changes

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """The documents that are no longer what the index holds."""
        for message in messages:
            for document in documents_in(message):
                if document.text and self._changes.stale(document.id, document.text):
                    yield Decision(message, "document changed", (document.start, document.end))


def _standing_results(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    return [m for m in messages if isinstance(m, ToolMessage) and text_of(m)]


def _tool_and_arguments(call: ToolCall) -> tuple[Any, ...]:
    return call["name"], json.dumps(call["args"], sort_keys=True, default=str)
