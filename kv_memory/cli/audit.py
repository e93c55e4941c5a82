"""`kv-memory audit`: list what an audit log holds, and verify that it is unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kv_memory.cli._options import AsJson

Log = Annotated[Path, typer.Option("--log", help="The audit log.")]

audit = typer.Typer(no_args_is_help=True, help="Read and verify an audit log of retractions.")


@audit.command("list")
def list_rows(
    *,
    log: Log,
    session: Annotated[str | None, typer.Option(help="Only rows of this session.")] = None,
    limit: Annotated[int, typer.Option(help="Show at most this many rows, the latest.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the rows of an audit log: intents, outcomes, refusals, healings and undos."""
    from kv_memory.audit import AuditLog
    from kv_memory.audit.show import print_json, show_rows

    rows = AuditLog(log, reading=True).entries(session=session, limit=limit)
    print_json(rows=rows) if as_json else show_rows(rows)


@audit.command("show")
def show(
    retraction: Annotated[str, typer.Argument(help="Id of the retraction, as in its report and in the list.")],
    *,
    log: Log,
    as_json: AsJson = False,
) -> None:
    """Show all that an audit log holds about one retraction."""
    from kv_memory.audit import AuditError, AuditLog
    from kv_memory.audit.show import print_json, show_retraction

    rows = AuditLog(log, reading=True).entries(retraction=retraction)
    if not rows:
        raise AuditError(f"The audit log {log} has no retraction {retraction!r}; kv-memory audit list gives the ids.")
    print_json(rows=rows) if as_json else show_retraction(rows)


@audit.command("verify")
def verify(
    *,
    log: Log,
    key: Annotated[Path | None, typer.Option(help="The log's key file; default: the one beside the log.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that an audit log is unchanged; exit code 1 when it is not."""
    from kv_memory.audit import AuditLog
    from kv_memory.audit.key import read_key
    from kv_memory.audit.show import print_json, show_problems

    problems = AuditLog(log, key=None if key is None else read_key(key), reading=True).verify()
    print_json(problems=problems) if as_json else show_problems(problems)
    if problems:
        raise typer.Exit(1)
