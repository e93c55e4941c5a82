"""Spans: the stretches of a conversation that a retraction can name, and the cells that they occupy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from kv_memory.arguments import shown
from kv_memory.errors import TargetError
from kv_memory.positions import Interval, merge


class SpanKind(StrEnum):
    """Origin of the text of a span."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    DOCUMENT = "document"
    RANGE = "range"


class SpanStatus(StrEnum):
    """Whether a span is in the cache, and if not, how it was erased."""

    LIVE = "live"
    APPROXIMATE = "approximate"
    """Erased; the cells after it may still carry some of its influence."""
    EXACT = "exact"
    """Erased, and the cache equals that of a conversation that never had the span."""


class Span(BaseModel):
    """A half-open interval [start, end) of token positions in one session, with its provenance."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: SpanKind
    start: int
    end: int
    tokens: int
    """Number of the span's tokens that are in the cache; 0 for an erased span, though its cells may hold steering
    states."""
    message: int
    """Index of the message in the conversation."""
    message_id: str | None = None
    tool_call_id: str | None = None
    document_id: str | None = None
    name: str | None = None
    """Name of the tool, for calls and results that have one."""
    chars: tuple[int, int] | None = None
    """Character interval within the message's content, for documents and ranges."""
    status: SpanStatus = SpanStatus.LIVE


_FIELDS = {
    "message": "as message the id of a message, a text",
    "start": "as start the number of its first character, 0 or more",
    "end": "as end the number after its last character, a whole number",
}


class CharRange(BaseModel):
    """Characters [start, end) of a message's text content, as a retraction target.

    Erasing widens the range to whole tokens; the report says to which characters. Raises TargetError for a range that
    is empty, begins before 0, or is not of whole numbers.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    message: str
    """Id of the message, its tool_call_id, or its span id."""
    start: int = Field(ge=0)
    end: int

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: object, handler: ModelWrapValidatorHandler[CharRange]) -> CharRange:
        try:
            found = handler(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=True)[0]
            name = first["loc"][0] if first["loc"] else "it"
            given = "nothing" if first["type"] == "missing" else shown(first["input"])
            raise TargetError(f"CharRange needs {_FIELDS.get(str(name), f'no {name}')}; got {given}.") from None
        if found.end <= found.start:
            raise TargetError(
                f"CharRange needs an end after its start; [{found.start}, {found.end}) of {found.message!r} is empty."
            )
        return found


Target = str | CharRange | Mapping[str, Any]
"""A span id, tool call id, message id or document id; characters of a message; or a message from the history."""


_RANGE = re.compile(r"(s\d+)\.range(\d+-\d+(?:\+\d+-\d+)*)")
_SPAN = re.compile(r"s\d+(\.(doc\d+|call\d+|range[-+\d]+))?")


def is_span_id(name: str) -> bool:
    """Return whether a name has the form of a span's id."""
    return _SPAN.fullmatch(name) is not None


def range_id(span_id: str, chars: Iterable[Interval]) -> str:
    """Return the id of characters of a message, as first read: `s2.range6-14`, `s2.range6-14+20-21` for two parts."""
    return f"{span_id}.range{'+'.join(f'{start}-{end}' for start, end in merge(chars))}"


def range_chars(name: str) -> tuple[Interval, ...]:
    """Return the characters that the id of a range names; none for any other id."""
    found = _RANGE.fullmatch(name)
    if found is None:
        return ()
    bounds = (part.split("-") for part in found[2].split("+"))
    chars = tuple((int(start), int(end)) for start, end in bounds)
    return chars if range_id(found[1], chars) == name else ()


def target_name(target: Target) -> str:
    """Return the name of a target for reports and errors: its id, never its text."""
    if isinstance(target, Mapping):
        return str(target.get("tool_call_id") or target.get("id") or f"this {target.get('role')} message")
    if isinstance(target, CharRange):
        return f"characters {target.start} to {target.end} of {target.message}"
    return target
