"""The records of the audit log: a row and its parts, as models and as columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kv_memory.audit.errors import AuditError
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.spans import SpanKind

if TYPE_CHECKING:
    from kv_memory.policy.authority import Spanned

Kind = Literal["intent", "outcome", "refusal", "healed", "undone"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class TargetRecord(_Record):
    """A target as it was named: its id, and a keyed hash of that id, or of the message where a message was given."""

    name: str
    hash: str


class SpanRecord(_Record):
    """A span that a target named: its kind and its ids."""

    id: str
    kind: SpanKind
    message_id: str | None = None
    tool_call_id: str | None = None
    document_id: str | None = None

    @classmethod
    def of(cls, span: Spanned) -> SpanRecord:
        """Return the record of this span, without the tool's name: erasing a tool call erases that too."""
        return cls.model_validate(span, from_attributes=True)


class AuditRow(_Record):
    """One row of the log; fields that its kind does not have are None or empty."""

    number: int
    """Number of the row, from 1 without gaps."""
    kind: Kind
    time: datetime
    """Time of writing, in UTC."""
    session: str
    retraction: str
    """Id of the retraction that the row is about; its report has the same."""
    by: str = ""
    """Name of who asked for the retraction."""
    reason: str = ""
    targets: tuple[TargetRecord, ...] = ()
    spans: tuple[SpanRecord, ...] = ()
    redactions: tuple[Redaction, ...] = ()
    pid: int
    """Id of the process that wrote the row."""
    process: str
    """Token of that process (when and where it began), which tells it from a later one with the same pid."""
    status: str | None = None
    eraser: str | None = None
    tokens_erased: int | None = None
    tokens_recomputed: int | None = None
    seconds: float | None = None
    fidelity: float | None = None
    error: str | None = None
    """Class name of the error with which it failed, or for which it was refused."""
    hash: str
    """Keyed hash over the row and the hash of the row before it."""


_JSON = ("targets", "spans", "redactions")
REDACTIONS = "edits"
"""The column of the redactions. Hashes of rows cover the names of columns, so it keeps its first one."""


def as_json(records: Iterable[BaseModel]) -> str:
    """Return the records as one column holds them."""
    return json.dumps([record.model_dump(mode="json") for record in records], sort_keys=True)


def from_row(row: sqlite3.Row | Mapping[str, Any]) -> AuditRow:
    """Return a row of the database as a record. Raises AuditError when this library did not write it."""
    columns = {name: row[name] for name in row.keys() if row[name] is not None}  # noqa: SIM118 - a Row iterates values
    if REDACTIONS in columns:
        columns["redactions"] = columns.pop(REDACTIONS)
    try:
        columns |= {name: json.loads(columns[name]) for name in _JSON if name in columns}
        return AuditRow.model_validate(columns)
    except (ValidationError, ValueError, TypeError) as error:
        raise AuditError(
            f"Row {columns.get('number')} of the audit log cannot be read: it was changed from outside; "
            "`kv-memory audit verify` says what else was."
        ) from error
