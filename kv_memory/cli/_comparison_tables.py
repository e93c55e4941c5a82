"""Tables of a comparison: the span map, the answers side by side, the cost."""

from __future__ import annotations

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kv_memory.conversation.spans import Span, SpanKind
from kv_memory.evaluation.compare import Comparison

_COLOURS = {
    SpanKind.SYSTEM: "magenta",
    SpanKind.USER: "cyan",
    SpanKind.ASSISTANT: "green",
    SpanKind.TOOL_RESULT: "yellow",
}
_BAR = 32
_ROWS = 24
"""Messages that the span map shows at most where most are far from what was retracted."""


def show(result: Comparison, console: Console) -> None:
    """Print a comparison."""
    console.print(Text.assemble((result.model, "bold"), f", {result.tokens:,} cells"))
    console.print(span_map(result))
    console.print(_answers(result))
    console.print(_cost(result))


def span_map(result: Comparison) -> Table:
    """Return a table of which message holds which cells; what was retracted is hatched.

    One row per message; of a long conversation only those beside what was retracted.
    """
    before = {span.id: span for span in result.spans}
    retracted = [before.get(span.id, span) for span in result.retracted.spans]
    table = Table(title="Span map", title_justify="left", box=None, padding=(0, 1), title_style="bold")
    table.add_column("id", style="dim")
    table.add_column("message")
    table.add_column("cells", justify="right", style="dim", no_wrap=True)
    table.add_column("where in the cache", no_wrap=True)
    rows = [span for span in result.spans if span.kind in _COLOURS and span.tokens]
    places = {r.message for r in retracted}
    left_out = 0
    for number, span in enumerate(rows):
        inside = [r for r in retracted if r.message == span.message]
        near = {other.message for other in rows[max(0, number - 2) : number + 3]}
        if len(rows) > _ROWS and not near & places:
            left_out += 1
            continue
        _add_left_out(table, left_out)
        left_out = 0
        bar = _bar(span, inside, result.tokens)
        table.add_row(span.id, _label(span, bool(inside)), f"{span.start}-{span.end}", bar)
    _add_left_out(table, left_out)
    return table


def _add_left_out(table: Table, messages: int) -> None:
    if messages:
        table.add_row("", Text(f"{messages} more", style="dim"), "", "")


def _label(span: Span, retracted: bool) -> Text:
    label = Text(span.kind.value.replace("_", " "), style=_COLOURS[span.kind])
    label.append(f" {span.name}" if span.name else "")
    label.append(f" {span.tool_call_id or span.message_id or ''}", style="dim")
    return label.append(" retracted" if retracted else "", style="bold red")


def _bar(span: Span, retracted: list[Span], cells: int) -> Text:
    def columns(start: int, end: int) -> range:
        first = start * _BAR // max(cells, 1)
        return range(first, max(first + 1, end * _BAR // max(cells, 1)))

    hatched = {column for r in retracted for column in columns(r.start, r.end)}
    bar = Text()
    for column in range(_BAR):
        if column not in columns(span.start, span.end):
            bar.append("·", style="bright_black")
        elif column in hatched:
            bar.append("░", style="red")
        else:
            bar.append("█", style=_COLOURS[span.kind])
    return bar


def _answers(result: Comparison) -> Panel:
    same = result.answers.after.strip() == result.answers.never_saw.strip()
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("before", Text(result.answers.before.strip()))
    table.add_row("after", Text(result.answers.after.strip(), style="bold green" if same else "bold red"))
    table.add_row("never saw it", Text(result.answers.never_saw.strip()))
    asked = Text(result.question or "The assistant's next turn", style="bold")
    return Panel(Group(asked, table), title="Answers", title_align="left", border_style="bright_black")


def _cost(result: Comparison) -> Table:
    report, seconds = result.retracted, result.seconds
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("eraser", f"{result.eraser}: {report.status}")
    table.add_row(
        "cells",
        f"{report.tokens_erased:,} erased, {report.tokens_recomputed:,} recomputed, {report.tokens_reused:,} reused",
    )
    table.add_row("time", f"{seconds.erase * 1e3:,.1f} ms to erase")
    ratio = seconds.recompute / max(seconds.erase, 1e-9)
    table.add_row("", f"{seconds.recompute * 1e3:,.1f} ms for a full recompute: {ratio:.1f} times as long")
    table.add_row("", f"{seconds.prefill * 1e3:,.1f} ms to read the conversation at first")
    table.add_row("KL from never-saw", f"{result.kl.no_erase:.4f} without erasing, {result.kl.erased:.4f} erased")
    return table
