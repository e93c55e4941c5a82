"""The progress bar of the commands that load a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from kv_memory.evaluation.progress import Progress


@contextmanager
def progress_bar(unit: str = "tokens", console: Console | None = None) -> Iterator[Progress]:
    """Show a bar on standard error, or on a console, from the loading of torch on; remove it at the end."""
    from rich import console as consoles
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[count]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    console = console or consoles.Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Loading torch", total=None, count="")

        def update(what: str, done: int, total: int) -> None:
            count = f"{done:,} of {total:,} {unit}" if total else ""
            bar.update(task, description=what, completed=done, total=total or None, count=count)

        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # transformers has one of its own
        yield update
