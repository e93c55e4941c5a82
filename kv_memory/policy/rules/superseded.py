"""The rule for tool results that a later call of the same thing has made stale."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar

from kv_memory.conversation.messages import ToolCall
from kv_memory.policy.reasons import Category
from kv_memory.policy.rules.base import Decision
from kv_memory.policy.rules.conversation import Conversation
from kv_memory.policy.rules.errors import IsError, failed

Key = Callable[[ToolCall], Hashable | None]


class SupersededToolResult:
    """A rule that retracts a tool result once a later call about the same thing has succeeded.

    `key`: a function that returns what a call is about: calls with equal keys are about the same thing, and a call with
    None is about nothing. Or the names of the arguments that say so, together with the tool. By default the tool and
    all its arguments. `tools`: names of the tools whose results are considered; None for all. `is_error`: tells whether
    a text reports a failure, besides the message's own fields; an error supersedes nothing.
    """

    name: ClassVar[str] = "superseded"

    def __init__(
        self,
        key: Key | Collection[str] | None = None,
        *,
        tools: Collection[str] | None = None,
        is_error: IsError | None = None,
    ) -> None:
        self._key = key if callable(key) else by_arguments(key)
        self._tools = tools
        self._is_error = is_error

    def decide(self, messages: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Return a decision for each result of a key before the last one that is no error."""
        conversation = Conversation(messages)
        keyed = [
            (result, self._key(result.call))
            for result in conversation.results()
            if result.standing and result.call and (self._tools is None or result.tool in self._tools)
        ]
        last = {key: result for result, key in keyed if not failed(result, self._is_error)}
        return [
            conversation.decision(result.index, f"superseded by {last[key].id}", Category.STALE, self.name)
            for result, key in keyed
            if key is not None and key in last and result.index < last[key].index
        ]


def by_arguments(names: Collection[str] | None = None) -> Key:
    """Return a key by which calls of one tool are about the same thing if these arguments (None: all) are equal.

    A call that gives none of the arguments is about nothing.
    """

    def key(call: ToolCall) -> Hashable | None:
        if names is None:
            return call.name, json.dumps(call.arguments, sort_keys=True, default=str)
        values = argument_values(call, names)
        return None if values is None else (call.name, values)

    return key


def argument_values(call: ToolCall, names: Collection[str]) -> str | None:
    """Return the values of these arguments as one text; None if the call gives none of them."""
    given = call.arguments if isinstance(call.arguments, Mapping) else {}
    values = {name: given[name] for name in names if name in given}
    return json.dumps(values, sort_keys=True, default=str) if values else None
