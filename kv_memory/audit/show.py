"""The audit log for people, as tables, and for programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kv_memory.audit.records import AuditRow
from kv_memory.audit.verify import Problem

_COLOURS = {"refused": "red", "failed": "red", "interrupted": "red", "approximate": "yellow", "exact": "green"}


def show_rows(rows: Sequence[AuditRow]) -> None:
    """Print a line for each row."""
    table = Table(box=None)
    table.add_column("row", justify="right", style="dim")
    for column in ("time (UTC)", "kind", "retraction"):
        table.add_column(column, no_wrap=True)
    for column in ("session", "by", "what"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            str(row.number),
            f"{row.time:%Y-%m-%d %H:%M:%S}",
            row.kind,
            _plain(row.retraction),
            _plain(row.session),
            _plain(row.by),
            _what(row),
        )
    Console().print(table)


def show_retraction(rows: Sequence[AuditRow]) -> None:
    """Print everything about one retraction."""
    table = Table(box=None, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(f"row {row.number}", Text(row.kind, style="bold"))
        for name, value in row.model_dump(exclude={"number", "kind", "retraction"}, exclude_none=True).items():
            if value not in ("", ()):
                table.add_row(name.replace("_", " "), _plain(_said(getattr(row, name))))
    Console().print(table)


def show_problems(problems: Sequence[Problem]) -> None:
    """Print what `verify` found."""
    console = Console(soft_wrap=True)
    for problem in problems:
        console.print(Text(problem.text, style="red"))
    if not problems:
        console.print("The log is as it was written.", style="green")


def print_json(**lists: Sequence[BaseModel]) -> None:
    """Print these lists as one JSON object."""
    print(
        json.dumps({name: [item.model_dump(mode="json") for item in items] for name, items in lists.items()}, indent=2)
    )


def _what(row: AuditRow) -> Text:
    named = ", ".join(target.name for target in row.targets)
    took = None if row.seconds is None else f"{row.seconds * 1e3:,.1f} ms"
    left = f"leaves {row.fidelity:.3g}" if row.fidelity else None
    said = ", ".join(part for part in (row.status, row.error, row.eraser, left, took, named) if part)
    return _plain(
        f"{said}: {row.reason}" if said and row.reason else said or row.reason, _COLOURS.get(row.status or "", "")
    )


def _plain(text: str, style: str = "") -> Text:
    """Return other people's text without the characters that control a terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text), style)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return "\n".join(_said(item) for item in value)
    if isinstance(value, BaseModel):
        held = value.model_dump(mode="json", exclude_none=True)
        return ", ".join(f"{name} {item}" for name, item in held.items())
    return str(value)
