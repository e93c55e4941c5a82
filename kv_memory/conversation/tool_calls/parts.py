"""Parts of an answer, as they are told to who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class InvalidCall(BaseModel):
    """A tool call that cannot be run: it was cut off, or is malformed. Its text is part of the message's content."""

    model_config = ConfigDict(frozen=True)

    name: str | None
    """Name of the tool, where it can be seen."""
    text: str
    """Call as the model wrote it, with its markers."""
    error: str
    """Reason, in one sentence."""


@dataclass(frozen=True)
class ReplyPart:
    """A part of an answer that is final: more of its text, or a whole call."""

    kind: Literal["content", "reasoning", "call", "invalid"]
    text: str = ""
    """Text to append to the message's content or reasoning; empty for calls."""
    call: dict[str, Any] | None = None
    """Call in OpenAI's form, as in the message; None unless `kind` is "call"."""
    invalid: InvalidCall | None = None
    """Call that cannot be run, of which the text came as content; None unless `kind` is "invalid"."""
