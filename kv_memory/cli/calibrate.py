"""`kv-memory calibrate`: reads and writes the files, and prints the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_memory.cli._options import Model
from kv_memory.cli._progress import progress_bar
from kv_memory.errors import ConversationError, KVMemoryError

if TYPE_CHECKING:
    from kv_memory.calibration.record import Calibration
    from kv_memory.evaluation.calibrate.calibrate import Plan
    from kv_memory.evaluation.progress import Progress


def calibrate(
    *,
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option(help="The result; default: calibration.json in the model's directory, else here.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to erase spans from; default: generated conversations.")
    ] = None,
    span: Annotated[list[int] | None, typer.Option(help="Tokens of a span; may be given several times.")] = None,
    following: Annotated[
        list[int] | None, typer.Option(help="Tokens after the span; may be given several times.")
    ] = None,
    cases: Annotated[int, typer.Option(help="Cases of each span and suffix length.")] = 8,
    probes: Annotated[int, typer.Option(help="Questions of each class and length; 0: none.")] = 20,
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
        from kv_memory.evaluation.calibrate.calibrate import Plan

        plan = Plan(cases=cases, probes=probes, seed=seed)
        plan = replace(plan, spans=tuple(span or plan.spans), followings=tuple(following or plan.followings))
        result, path = _run(model, plan, out=out, text=text, known=fidelity, eraser=eraser, progress=progress)
    _show(result)
    typer.echo(f"wrote {path}")


def _run(
    model: str | None,
    plan: Plan,
    *,
    out: Path | None,
    text: Path | None,
    known: Path | None,
    eraser: str | None,
    progress: Progress,
) -> tuple[Calibration, Path]:
    """Calibrate; return the result and the file that it was written to. Nothing is written unless all is measured.

    With the directory of a trained `eraser` and without `out` the calibration becomes part of its eraser.json. Errors
    in the files, the model or the lengths are raised as soon as they can be known.
    """
    from kv_memory.calibration.record import FILE
    from kv_memory.engines.transformers.loading import load_model
    from kv_memory.evaluation.calibrate import calibrate as measuring
    from kv_memory.file_io import replacing
    from kv_memory.pocket import model_path
    from kv_memory.trained import record as eraser_record
    from kv_memory.trained.files import open_eraser

    name = model or str(model_path())
    folder = Path(name).expanduser()
    trained = None if eraser is None else open_eraser(eraser)
    within = trained if out is None and eraser is not None and Path(eraser).expanduser().is_dir() else None
    path = within.folder / eraser_record.FILE if within else out or (folder if folder.is_dir() else Path()) / FILE
    words = None if text is None else _read(text)
    earlier = None if known is None else _known(known)
    with replacing(path) as draft:
        progress("Loading the model", 0, 0)
        loaded, tokenizer = load_model(name, None, None)
        result = measuring.calibrate(
            loaded,
            tokenizer,
            name=model or "pocket",
            plan=plan,
            text=words,
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
    best = result.influence
    layers = f"layer{'s' * (len(best.probe_layers) > 1)} {', '.join(map(str, best.probe_layers))}"
    console.print(
        f"[bold]{result.model}[/]: ask the queries of {layers}, normaliser {best.normaliser}", highlight=False
    )
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


def _cell(result: Calibration, eraser: str, following: int) -> str:
    """Format the highest residual and the longest time over spans."""
    left = [r.residual.value for r in result.fidelity if (r.eraser, r.following) == (eraser, following)]
    took = [r.milliseconds for r in result.latency if (r.eraser, r.following) == (eraser, following)]
    return f"{max(left):.3f} {max(took):,.1f}" if left else f"{max(took):,.1f}"
