"""`kv-memory calibrate`: files in and out, and the result for people."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from kv_memory.calibration.record import FILE, Calibration, load, replacing
from kv_memory.engines.transformers.loading import load_model
from kv_memory.errors import ConversationError, KVMemoryError
from kv_memory.evaluation.calibrate.calibrate import Plan, Progress, calibrate
from kv_memory.pocket import model_path
from kv_memory.trained import files


def run(
    model: str | None,
    plan: Plan,
    *,
    out: Path | None = None,
    text: Path | None = None,
    known: Path | None = None,
    eraser: str | None = None,
    progress: Progress,
) -> tuple[Calibration, Path]:
    """Calibrate and write the file; the calibration and where it is. Nothing is written unless all is measured.

    With the directory of a trained `eraser` and without `out` the calibration becomes part of its eraser.json.

    Raises KVMemoryError for whatever is wrong with the files, the model or the lengths, as soon as it can be known.
    """
    name = model or str(model_path())
    folder = Path(name).expanduser()
    trained = None if eraser is None else files.open_eraser(eraser)
    within = trained if out is None and eraser is not None and Path(eraser).expanduser().is_dir() else None
    path = within.folder / files.FILE if within else out or (folder if folder.is_dir() else Path()) / FILE
    words = None if text is None else _read(text)
    earlier = None if known is None else _known(known)
    with replacing(path) as draft:
        progress("Loading the model", 0, 0)
        loaded, tokenizer = load_model(name, None, None)
        result = calibrate(
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


def show(result: Calibration, console: Console) -> None:
    """Print the choice, and what it rests on."""
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
    """The worst residual and the longest time over spans."""
    left = [r.residual.value for r in result.fidelity if (r.eraser, r.following) == (eraser, following)]
    took = [r.milliseconds for r in result.latency if (r.eraser, r.following) == (eraser, following)]
    return f"{max(left):.3f} {max(took):,.1f}" if left else f"{max(took):,.1f}"


def _known(path: Path) -> Calibration:
    if path.name != files.FILE:
        return load(path)
    found = files.open_eraser(path.parent).calibration
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
