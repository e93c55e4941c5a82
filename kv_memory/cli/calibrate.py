"""`kv-memory calibrate`: reads and writes the files, and prints the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_memory.cli._options import RunnableModel
from kv_memory.cli._progress import progress_bar
from kv_memory.errors import ConversationError, KVMemoryError

SHOWN = 8
"""Number of ways to choose tokens that are printed; the file has all."""

if TYPE_CHECKING:
    from rich.table import Table

    from kv_memory.calibration.record import Calibration
    from kv_memory.evaluation.calibrate.plan import Plan
    from kv_memory.evaluation.progress import Progress


def calibrate(
    *,
    model: RunnableModel = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The result; default: in the model's directory or beside its .gguf file, else here."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to erase spans from; default: generated conversations.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets: erase wrong documents from readings."),
    ] = None,
    span: Annotated[
        list[int] | None, typer.Option(help="Tokens of a span of --text; may be given several times.")
    ] = None,
    following: Annotated[
        list[int] | None, typer.Option(help="Tokens after the span; may be given several times.")
    ] = None,
    cases: Annotated[int, typer.Option(help="Cases of each length.")] = 3,
    probes: Annotated[
        int, typer.Option(help="Questions of each class and length, for targets of agreement; slow.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the cases and questions.")] = 0,
    fidelity: Annotated[
        Path | None, typer.Option(help="A calibration of this model: take fidelity from it, measure only the time.")
    ] = None,
    eraser: Annotated[
        str | None,
        typer.Option(
            help="A trained eraser to measure too: directory or hub id. Without --out, its eraser.json gets the result."
        ),
    ] = None,
) -> None:
    """Measure the influence that each eraser leaves and its time on a model, and choose default erasers."""
    with progress_bar("cases") as progress:
        from kv_memory.evaluation.calibrate.plan import Plan

        plan = Plan(cases=cases, probes=probes, seed=seed)
        plan = replace(plan, spans=tuple(span or plan.spans), followings=tuple(following or plan.followings))
        result, path = _run(
            model, plan, out=out, text=text, data=data, known=fidelity, eraser=eraser, progress=progress
        )
    _show(result)
    typer.echo(f"wrote {path}")


def _run(
    model: str | None,
    plan: Plan,
    *,
    out: Path | None,
    text: Path | None,
    data: Path | None,
    known: Path | None,
    eraser: str | None,
    progress: Progress,
) -> tuple[Calibration, Path]:
    """Calibrate; return the result and the file that it was written to. Nothing is written unless all is measured.

    With the directory of a trained `eraser` and without `out` the calibration becomes part of its eraser.json. Errors
    in the files, the model or the lengths are raised as soon as they can be known.
    """
    from kv_memory.calibration.record import FILE, beside
    from kv_memory.evaluation.calibrate import calibrate as measuring
    from kv_memory.file_io import replacing
    from kv_memory.pocket import model_path
    from kv_memory.trained import record as eraser_record
    from kv_memory.trained.files import open_eraser

    name = model or str(model_path())
    folder = Path(name).expanduser()
    trained = None if eraser is None else open_eraser(eraser)
    within = trained if out is None and eraser is not None and Path(eraser).expanduser().is_dir() else None
    own = beside(folder) if folder.exists() else Path(FILE)
    path = within.folder / eraser_record.FILE if within else out or own
    words = None if text is None else _read(text)
    earlier = None if known is None else _known(known)
    with replacing(path) as draft:
        result = measuring.calibrate(
            name,
            name=model or "pocket",
            plan=plan,
            text=words,
            data=data,
            known=earlier,
            eraser=trained,
            progress=progress,
        )
        written = within.calibrated(result) if within else result
        draft.write_text(written.model_dump_json(indent=1) + "\n")
    return result, path


def _known(path: Path) -> Calibration:
    from kv_memory.calibration.record import load
    from kv_memory.trained import record as eraser_record
    from kv_memory.trained.files import open_eraser

    if path.name != eraser_record.FILE:
        return load(path)
    found = open_eraser(path.parent).calibration
    if found is None:
        raise KVMemoryError(f"{path} holds no calibration; run kv-memory calibrate --eraser {path.parent}.")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConversationError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def _show(result: Calibration) -> None:
    """Print the choice, and the figures behind it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{result.model}[/]: {_chosen(result)}", highlight=False)
    if result.choices:
        console.print(_choices(result))
    table = Table(
        title="Residual influence, and milliseconds, by tokens after the span", title_justify="left", box=None
    )
    lengths = sorted({row.following for row in result.latency})
    table.add_column("eraser", no_wrap=True)
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    for eraser in dict.fromkeys(row.eraser for row in result.latency):
        table.add_row(eraser, *(_cell(result, eraser, length) for length in lengths))
    table.add_row("[bold]default[/]", *(f"[bold]{result.default(length)}[/]" for length in lengths))
    console.print(table)


def _chosen(result: Calibration) -> str:
    best = result.influence
    if not best.probe_layers:
        return "the engine keeps no queries"
    asked = f"ask the queries of {_layers(best.probe_layers)}, normaliser {best.normaliser}"
    return asked if best.memory is None else f"{asked}; they take {best.memory:.1%} of the memory of K and V"


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def _choices(result: Calibration) -> Table:
    """Return the best ways to choose tokens: what is left, and the memory of the queries."""
    from rich.table import Table

    table = Table(title="Ways to choose 15 % of the later tokens", title_justify="left", box=None)
    for name in ("queries of", "combined by", "normaliser"):
        table.add_column(name, no_wrap=True)
    for name in ("left", "cases", "memory"):
        table.add_column(name, justify="right")
    for row in result.choices[:SHOWN]:
        several = row.combine if len(row.probe_layers) > 1 else ""
        figures = (f"{row.left:.3f}", str(row.cases), f"{row.memory:.1%}")
        table.add_row(_layers(row.probe_layers), several, row.normaliser, *figures)
    return table


def _cell(result: Calibration, eraser: str, following: int) -> str:
    """Format the highest residual and the longest time over spans."""
    left = [r.residual.value for r in result.fidelity if (r.eraser, r.following) == (eraser, following)]
    took = [r.milliseconds for r in result.latency if (r.eraser, r.following) == (eraser, following)]
    return f"{max(left):.3f} {max(took):,.1f}" if left else f"{max(took):,.1f}"
