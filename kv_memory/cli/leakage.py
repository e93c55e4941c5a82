"""`kv-memory eval leakage`: opens the model and its erasers, prints the result, and writes it to a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_memory.cli._options import Model
from kv_memory.cli._progress import progress_bar
from kv_memory.errors import KVMemoryError

if TYPE_CHECKING:
    from kv_memory.evaluation.leakage.plan import Plan
    from kv_memory.evaluation.leakage.record import Result
    from kv_memory.evaluation.progress import Progress


def leakage(
    *,
    model: Model = None,
    eraser: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, or the directory or hub id of a trained eraser; may be given several times. Default: all."
        ),
    ] = None,
    probes: Annotated[int, typer.Option(help="Canaries, orders, and conversations with injections.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of canaries.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="KV_MEMORY_DATA",
            help="Folder with the files of InjecAgent and AgentDojo; else left out.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the cases, each with its own model.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the result.")] = None,
) -> None:
    """Measure what can be learned of erased text: canaries, attacks, membership, echoes, injections."""
    from rich.console import Console

    with progress_bar("cases") as progress:
        from kv_memory.cli._leakage_tables import show
        from kv_memory.evaluation.leakage.plan import Plan

        plan = Plan(probes=probes, seed=seed, data=data)
        result = _run(model, eraser or (), plan, workers=workers, out=out, progress=progress)
    show(result, Console())
    if out is not None:
        typer.echo(f"wrote {out}")


def _run(
    model: str | None, erasers: Sequence[str], plan: Plan, *, workers: int, out: Path | None, progress: Progress
) -> Result:
    """Measure and return the result; write it to `out`, if given, once all is measured.

    `erasers`: names, and at most one trained eraser's directory or hub id; none: all that the model can run. Errors in
    any of these are raised before anything is measured.
    """
    from kv_memory.evaluation.leakage.injections import FILES
    from kv_memory.evaluation.leakage.measure import Measurement
    from kv_memory.evaluation.leakage.treatments import available
    from kv_memory.evaluation.leakage.work import here, open_memory, processes
    from kv_memory.file_io import replacing
    from kv_memory.trained.files import is_trained_eraser

    trained = [given for given in erasers if is_trained_eraser(given)]
    names = [given for given in erasers if not is_trained_eraser(given)]
    if len(trained) > 1:
        raise KVMemoryError("Give --eraser at most one trained eraser.")
    missing = [name for name in FILES.values() if plan.data is not None and not (plan.data / name).is_file()]
    if missing:
        raise KVMemoryError(f"{plan.data} has no {' and no '.join(missing)}.")
    eraser = trained[0] if trained else None
    memory = open_memory(model, eraser)
    hows = available(memory, names)
    spread = nullcontext(here(memory)) if workers == 1 else processes(workers, model, eraser)
    with spread as work, replacing(out) if out else nullcontext() as draft:
        result = Measurement(memory.format, memory.engine.name, work, hows, plan, progress).run()
        if draft is not None:
            draft.write_text(result.model_dump_json(indent=1) + "\n")
    return result
