"""The part of a conversation that a comparison reads. Importing this loads no library that runs models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kv_memory.errors import ConversationError


def context_of(messages: Sequence[dict[str, Any]], question: str | None) -> list[dict[str, Any]]:
    """Return the messages before the question, or without one those before the answer that is to be given again.

    Raises ConversationError where nothing is left to answer, or the question is empty.
    """
    context = list(messages)
    if question is not None and not question.strip():
        raise ConversationError(
            "The question is empty; ask one, or leave it away to compare the assistant's next turn."
        )
    while question is None and context and context[-1].get("role") in ("assistant", "model"):
        context.pop()
    if not context:
        raise ConversationError("Nothing is left to answer once trailing assistant turns are off; ask a question.")
    return context
