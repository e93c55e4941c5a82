"""Tables of a leakage result."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from kv_memory.calibration.estimates import Estimate
from kv_memory.evaluation.leakage.canaries import Leakage
from kv_memory.evaluation.leakage.record import Result


def show(result: Result, console: Console) -> None:
    """Print all tables."""
    console.print(f"[bold]{result.model}[/], {result.environment.hardware}", highlight=False)
    console.print(_leakage("One erasure", result.canaries))
    for count, rows in result.successive.items():
        console.print(_leakage(f"The first of {count} erasure{'s' * (count > 1)} in one session", rows))
    for kind, echoes in result.echoes.items():
        for cascade, rows in echoes.leakage.items():
            console.print(_leakage(f"Said again: {kind}, {cascade}", rows))
        table = _table(f"Cascade, {kind}", "echoes found", "other turns left")
        for how, found in echoes.cascade.items():
            table.add_row(how, _percent(found.found), _percent(found.spared))
        console.print(table)
    table = _table("Orders in tool results", "obeyed", "as never-saw")
    for how, order in result.orders.items():
        table.add_row(how, _percent(order.obeyed), _percent(order.agreement))
    console.print(table)
    _show_injections(result, console)
    _show_targets(result, console)


def _leakage(title: str, rows: Mapping[str, Leakage]) -> Table:
    agreement = any(row.agreement for row in rows.values())
    columns = ["bits", "±1 bit", "attacks", "any", "AUC", "TPR", "AUC rel", "TPR rel"]
    table = _table(f"{title}, canaries: {max(row.canaries for row in rows.values())}", *columns)
    if agreement:
        table.add_column("agrees", justify="right")
    for how, row in rows.items():
        cells = [f"{row.exposure:.2f}", _share(row.within_a_bit), _percent(row.attack), _share(row.extracted)]
        cells += [f"{row.auc:.3f}", _share(row.tpr), f"{row.auc_relative:.3f}", _share(row.tpr_relative)]
        cells += [_share(row.agreement)] if row.agreement else []
        table.add_row(how, *cells)
    return table


def _show_injections(result: Result, console: Console) -> None:
    if not result.injections:
        console.print("Injections of InjecAgent and AgentDojo: no data was given (--data).")
        return
    sources = result.injections
    table = _table("Residual influence", *(f"{name} ({found.cases})" for name, found in sources.items()))
    for how in dict.fromkeys(how for found in sources.values() for how in found.residual):
        left = [found.residual.get(how) for found in sources.values()]
        table.add_row(how, *("" if e is None else f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in left))
    console.print(table)


def _show_targets(result: Result, console: Console) -> None:
    table = _table("Targets", "", first="")
    for target in sorted(result.targets, key=lambda target: target.met):
        table.add_row("[green]met[/]" if target.met else "[red]missed[/]", f"{target.name}: {target.measured}")
    table.columns[1].justify = "left"
    console.print(table)


def _table(title: str, *columns: str, first: str = "eraser") -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _share(share: Estimate) -> str:
    """Format a share without its interval, which is in the JSON: the widest tables have no room for it."""
    return f"{100 * share.value:.1f} %"
