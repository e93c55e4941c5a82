"""Tables of a bench that fit 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.baselines import NEVER_SAW
from kv_memory.evaluation.bench.record import Run
from kv_memory.evaluation.bench.summary import CHANGED, TIMES_NOISE, Figures, Group, Paired, Share, Summary

_NAME = 15
"""Columns that names of erasers have on a narrow terminal."""
_VALUES = 4
"""Number of a group's values that a table has room for."""
_Column = tuple[str, Callable[[Figures], str]]


def show(run: Run, summary: Summary, console: Console) -> None:
    """Print all tables."""
    console.print(Text.assemble((run.model, "bold"), f", {run.dtype}, {run.environment.hardware}"))
    for _, groups in groupby(summary.groups, lambda group: group.suite):
        first, *parts = groups
        _show_suite(first, summary.reference, console)
        for by, values in groupby(parts, lambda group: group.by):
            listed = list(values)
            for start in range(0, len(listed), _VALUES):
                console.print(_by(by, listed[start : start + _VALUES]))
    console.print(
        Text(
            "Influence left and answers as never-saw's are of the changed cases, whose KL with nothing erased is at "
            f"least {CHANGED} nats and {TIMES_NOISE} times the noise floor. 95 % intervals, over conversations for the "
            "influence. p: McNemar's test.",
            style="dim",
        )
    )


def _show_suite(group: Group, reference: str, console: Console) -> None:
    console.print()
    console.print(
        Text.assemble(
            (group.suite, "bold"),
            f": {group.cases:,} cases of {group.conversations:,} conversations, {group.changed:,} changed by the span",
            f"; {group.incomplete:,} incomplete ones are left out" if group.incomplete else "",
        )
    )
    left: Sequence[_Column] = (
        ("influence left", lambda found: _estimate(found.residual)),
        ("as never-saw", lambda found: _share(found.agrees)),
        ("better, worse, p", lambda found: _paired(found.versus)),
        ("KL, unchanged", lambda found: "" if found.unchanged_kl is None else f"{found.unchanged_kl:.4f}"),
    )
    console.print(_table(f"What is left; better and worse than {reference}", group, left))
    questions: Sequence[_Column] = (
        ("right again", lambda found: _counted(found.restored)),
        ("still misled", lambda found: _counted(found.misled)),
        ("kept right", lambda found: _counted(found.kept)),
        ("says it is gone", lambda found: _counted(found.abstains)),
    )
    asked = _table("Questions that the span spoils, and others", group, questions, beside=True)
    if asked.row_count:
        console.print(asked)
    cost: Sequence[_Column] = (
        ("tokens", lambda found: f"{found.recomputed:,.0f}"),
        ("of following", lambda found: "" if found.share is None else f"{100 * found.share:.0f} %"),
        ("milliseconds", lambda found: "" if found.seconds is None else f"{1e3 * found.seconds:,.1f}"),
        ("of re-prefill", lambda found: "" if found.relative is None else f"{100 * found.relative:.0f} %"),
    )
    console.print(_table("Cost, medians", group, cost))


def _table(title: str, group: Group, columns: Sequence[_Column], *, beside: bool = False) -> Table:
    """Return a table with a row for each treatment; `beside`: never-saw too."""
    table = Table(title=Text(title), title_justify="left", box=None)
    table.add_column("eraser", min_width=_NAME)
    shown = [column for column in columns if any(column[1](found) for found in group.treatments.values())]
    for name, _ in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in group.treatments.items():
        cells = [cell(found) for _, cell in shown]
        if any(cells) and (name != NEVER_SAW or beside):
            table.add_row(Text(name), *cells)
    return table


def _by(by: str, groups: Sequence[Group]) -> Table:
    table = Table(title=Text(f"Influence left by {by}"), title_justify="left", box=None)
    table.add_column("eraser", min_width=_NAME)
    for group in groups:
        value = group.value if isinstance(group.value, str) else f"{group.value:,}"
        table.add_column(Text(value), justify="right", max_width=17)
    for name in dict.fromkeys(name for group in groups for name in group.treatments if name != NEVER_SAW):
        found = [group.treatments.get(name) for group in groups]
        table.add_row(Text(name), *("" if each is None else _short(each.residual) for each in found))
    table.add_section()
    table.add_row("changed cases", *(f"{group.changed:,} of {group.cases:,}" for group in groups), style="dim")
    return table


def _estimate(found: Estimate | None) -> str:
    if found is not None and found.bare:
        return f"{found.value:.3f}"
    return "" if found is None else f"{found.value:.3f} ({found.low:.2f}-{found.high:.2f})"


def _short(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"


def _share(found: Share | None) -> str:
    return "" if found is None else f"{100 * found.value:.1f} % ({100 * found.low:.0f}-{100 * found.high:.0f})"


def _counted(found: Share | None) -> str:
    return "" if found is None else f"{found.hits}/{found.of} ({100 * found.low:.0f}-{100 * found.high:.0f} %)"


def _paired(found: Paired | None) -> str:
    return "" if found is None else f"{found.better}, {found.worse}, {found.p:.3f}"
