"""The check whether a tool result is an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv_memory.policy.rules.conversation import ToolResult

IsError = Callable[[str], bool]
"""A function that tells whether the text of a tool result reports a failure."""


def starting_with(prefixes: Sequence[str]) -> IsError | None:
    """Return a check for texts that start with one of these prefixes; None without prefixes."""
    return (lambda text: text.lstrip().startswith(tuple(prefixes))) if prefixes else None


def failed(result: ToolResult, is_error: IsError | None) -> bool:
    """Return whether a tool result is an error, by its message's fields or by its text."""
    return result.failed or (is_error is not None and is_error(result.text))
