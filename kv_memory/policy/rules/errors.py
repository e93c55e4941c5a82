"""Which tool results are errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv_memory.policy.rules.conversation import ToolResult

IsError = Callable[[str], bool]
"""Whether the text of a tool result reports a failure."""


def starting_with(prefixes: Sequence[str]) -> IsError | None:
    """Texts that start with one of these report a failure; None of none."""
    return (lambda text: text.lstrip().startswith(tuple(prefixes))) if prefixes else None


def failed(result: ToolResult, is_error: IsError | None) -> bool:
    """Whether its message says so, or its text."""
    return result.failed or (is_error is not None and is_error(result.text))
