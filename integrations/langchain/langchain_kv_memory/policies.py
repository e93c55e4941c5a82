"""Policies: which messages of a conversation have turned out stale, wrong or hostile. A policy only looks and decides.

They are the rules of `kv_memory.policy.rules`, for LangChain's messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from langchain_core.messages import BaseMessage, ToolCall, ToolMessage

from kv_memory import rules
from langchain_kv_memory.changes import DocumentChanges
from langchain_kv_memory.convert import to_openai
from langchain_kv_memory.decisions import Decision

PROVENANCE = "kv_memory"
"""Key of `ToolMessage.response_metadata` under which the middleware notes which tool ran, and when."""


class Policy(Protocol):
    """Anything with this method, for `RetractionMiddleware`."""

    def decide(self, messages: Sequence[BaseMessage]) -> Iterable[Decision]:
        """Return what is to be retracted from these messages. Called before each model call; may block."""


class ByRule:
    """A rule of kv_memory as a policy: one's own, or those of a policy file.

    ```python
    RetractionMiddleware([ByRule(rule) for rule in kv_memory.policy.Policy.load("policy.toml").rules()])
    ```
    """

    def __init__(self, rule: rules.Rule) -> None:
        self._rule = rule

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """Return what the rule decides."""
        for decided in self._rule.decide(_said(messages)):
            yield Decision(messages[decided.message], decided.reason, decided.chars, decided.category)


class SupersededToolResult(ByRule):
    """A policy that retracts a tool result once a later call about the same thing has succeeded.

    `key`: a function that returns what a call is about; calls with equal keys are about the same thing, and a call with
    None is about nothing. By default the tool and all its arguments.
    """

    def __init__(self, key: Callable[[ToolCall], Hashable | None] | None = None) -> None:
        super().__init__(rules.SupersededToolResult(None if key is None else lambda call: key(_call(call))))


class ToolError(ByRule):
    """A policy that retracts an error once the same tool has succeeded or the user has taken the next turn."""

    def __init__(self) -> None:
        super().__init__(rules.ToolError())


class TimeToLive(ByRule):
    """A policy that retracts tool results older than `seconds`; with `tools`, only those of these tools.

    A result whose tool ran without the middleware has no age.
    """

    def __init__(
        self, seconds: float, *, tools: Collection[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(rules.TimeToLive(seconds, tools=tools, clock=clock))


class FlaggedContent(ByRule):
    """A policy that retracts what a detector flags: an injected sentence, a secret, personal data.

    `detector` is given the text of a message and returns the character intervals [start, end) to retract. It is called
    with every message of these types before each model call, so that it can find later what it did not know before; a
    slow one should cache its results. If it returns a score instead (`kv_memory.policy.rules.Classifier`), messages
    that score .5 or more are retracted as a whole.
    """

    def __init__(
        self,
        detector: Callable[[str], Iterable[tuple[int, int]] | float],
        *,
        types: Collection[str] = ("tool",),
        reason: str = "flagged by a detector",
    ) -> None:
        super().__init__(rules.FlaggedContent(detector, roles=rules.ROLES, reason=reason))
        self._types = types

    def decide(self, messages: Sequence[BaseMessage]) -> Iterator[Decision]:
        """Return a decision for each flagged interval."""
        return super().decide([message for message in messages if message.type in self._types])


class ChangedDocument(ByRule):
    """A policy that retracts a document from all messages once it was deleted from its index or replaced."""

    def __init__(self, changes: DocumentChanges) -> None:
        super().__init__(rules.ChangedDocument(changes.stale))


def _said(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the conversation, with what rules read of a tool's message besides its text."""
    said = to_openai(messages, ())
    for message, given in zip(messages, said, strict=True):
        if isinstance(message, ToolMessage):
            given["status"] = message.status
            given["at"] = message.response_metadata.get(PROVENANCE, {}).get("at")
    return said


def _call(call: rules.ToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.name, args=call.arguments)
