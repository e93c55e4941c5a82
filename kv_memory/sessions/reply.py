"""The answer of the model: its text, the message that it makes, and the tokens that the turn took."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.tool_calls.parts import InvalidCall


class FinishReason(StrEnum):
    """Reason why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    RETRACTED = "retracted"
    """Something that it could see was retracted while it was being generated."""


class Usage(BaseModel):
    """Token counts of one turn."""

    model_config = ConfigDict(frozen=True)

    reused: int
    """Cells of the conversation that were already in the cache."""
    prefilled: int
    """Tokens that went through the model before the answer."""
    erased: int
    """Cells erased because their messages had vanished from the conversation."""
    generated: int
    left_out: int = 0
    """Tokens of the conversation that were not prefilled because they are retracted, about."""
    corrected: tuple[str, ...] = ()
    """Ids of messages of which another text is retracted: they came with a new text, and that was prefilled."""
    branch: int = 0
    """Number of the session's branch that held the conversation."""


class Reply(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True)

    message: dict[str, Any]
    """Message of the assistant in OpenAI's format: append it to the conversation as it is."""
    invalid_calls: tuple[InvalidCall, ...] = ()
    """Tool calls that are malformed or were cut off. They are not in the message's `tool_calls`; their text is part of
    its content."""
    text: str
    """Text that the model wrote, with tool calls as it wrote them."""
    finish_reason: FinishReason
    usage: Usage
