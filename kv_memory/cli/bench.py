"""`kv-memory eval SUITE`: opens the model and its erasers, measures them on suites of cases, and prints the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_memory.cli._options import AsJson, Model
from kv_memory.cli._progress import progress_bar
from kv_memory.errors import KVMemoryError

if TYPE_CHECKING:
    from kv_memory.engines.base import Engine
    from kv_memory.erasers.base import Eraser
    from kv_memory.sessions.memory import Memory

ALL = "all"
NAMES = {
    "documents": "Questions about documents of which one is wrong or harmful.",
    "needle": "Conflicting facts in real text, at several lengths and depths.",
    "memory": "Values that later ones make stale.",
    "transcripts": "Agents' conversations: the recorded next turn, and the span's surroundings.",
    "distance": "Generated text that depends on the span and follows it at several distances.",
    "copy": "Retained text copied word for word, and whether the model says that erased text is gone.",
    ALL: "All suites, one after the other; `leakage` is apart.",
}
"""Suites, and what is in them."""
LONGEST = 8192
"""Largest number of tokens of a case, where the model's context allows it."""


def bench(
    context: typer.Context,
    *,
    model: Model = None,
    eraser: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, also with a budget as in 'shift+influence 10%', or the directory or hub id of a trained "
            "eraser; may be given several times. Others are compared with the first. Default: all that the model can "
            "run, compared with shift+influence."
        ),
    ] = None,
    cases: Annotated[int, typer.Option(help="Cases of each suite, at most.", min=1)] = 100,
    longest: Annotated[
        int | None, typer.Option(help=f"Longest case in tokens; default: {LONGEST:,}, or the model's context.", min=1)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="KV_MEMORY_DATA", help="Folder with the files of the data sets.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the cases and of the intervals.")] = 0,
    device: Annotated[str | None, typer.Option(help="Device that torch knows, such as cuda; default: a GPU.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights, such as float32; default: as saved.")] = None,
    other_dtype: Annotated[
        str | None, typer.Option(help="Read each case without its span in this type too: what rounding changes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file of JSON lines for the results; cases that it has are not repeated.")
    ] = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="An HTML file for charts and tables.")] = None,
) -> None:
    """Measure what erasers leave and cost on a suite of cases, beside a model that never saw the span."""
    asked = str(context.command.name)
    with progress_bar("cases") as progress, ExitStack() as stack:
        from kv_memory.evaluation.bench.measure import make_cases, measure
        from kv_memory.evaluation.bench.page import page
        from kv_memory.evaluation.bench.record import Record, this_run
        from kv_memory.evaluation.bench.run import Bench
        from kv_memory.evaluation.bench.summary import summarise
        from kv_memory.evaluation.suites.registry import SUITES
        from kv_memory.evaluation.suites.source import Source
        from kv_memory.file_io import replacing
        from kv_memory.sessions.memory import Memory

        if data is not None and not data.is_dir():
            raise KVMemoryError(f"There is no folder {data}; give --data a folder with the files of the data sets.")
        draft = None if html is None else stack.enter_context(replacing(html))
        trained, names = _trained(eraser or ())
        memory = Memory(model, eraser=trained, heal="never", device=device, dtype=dtype)
        chosen = _erasers(memory, names)
        limit = _limit(memory.engine, longest)
        source = Source(memory.format, seed=seed, longest=limit, data=data)
        made = make_cases(SUITES if asked == ALL else (asked,), source, cases)
        other = None if other_dtype is None else Memory(model, heal="never", device=device, dtype=other_dtype).engine
        run = this_run(
            memory.engine,
            model=model or "pocket",
            eraser=trained,
            other=other,
            device=device,
            longest=limit,
            seed=seed,
        )
        rows = measure(Bench(memory.engine, chosen, other), made, Record(run, out), progress)
        summary = summarise(rows, _reference(names, chosen), seed)
        if draft is not None:
            draft.write_text(page(run, summary), encoding="utf-8")
    if as_json:
        print(json.dumps({"run": run.model_dump(mode="json"), **summary.model_dump(mode="json")}, indent=2))
        return
    from rich.console import Console

    from kv_memory.cli._bench_tables import show

    show(run, summary, Console())
    for path in filter(None, (out, html)):
        typer.echo(f"wrote {path}")


def _trained(erasers: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the directory or hub id of a trained eraser, if one is given, and the names of all erasers to measure.

    A trained one alone is measured by itself and with the recompute of some tokens. Raises KVMemoryError for an unknown
    name, before a model is loaded.
    """
    from kv_memory.erasers import ERASERS, get_eraser
    from kv_memory.trained.files import is_trained_eraser

    trained = [given for given in erasers if is_trained_eraser(given)]
    names = [given for given in erasers if given not in trained]
    if len(trained) > 1:
        raise KVMemoryError("Give --eraser at most one trained eraser.")
    for name in names:
        get_eraser(name)
    if trained and not names:
        names = [name for name in ERASERS if "steering" in ERASERS[name].needs]
    return next(iter(trained), None), names


def _erasers(memory: Memory, names: Sequence[str]) -> dict[str, Eraser]:
    """Return the erasers of these names, or all that the model can run; the model's trained eraser is loaded."""
    from kv_memory.erasers import ERASERS
    from kv_memory.erasers.steer import Steer
    from kv_memory.errors import UnsupportedOperationError

    if names:
        return {name: memory.load_eraser(name) for name in names}
    with suppress(UnsupportedOperationError):
        memory.load_eraser(Steer())
    made = {name: kind() for name, kind in ERASERS.items()}
    return {name: eraser for name, eraser in made.items() if not eraser.lacking(memory.engine)}


def _limit(engine: Engine, longest: int | None) -> int:
    if longest is not None and longest > engine.max_positions:
        raise KVMemoryError(
            f"{engine.name} reads at most {engine.max_positions:,} tokens; give --longest {engine.max_positions} or "
            "less."
        )
    return longest or min(LONGEST, engine.max_positions)


def _reference(names: Sequence[str], erasers: Mapping[str, Eraser]) -> str:
    """Return the first name or, of all erasers, the one that is used where nothing else is known."""
    from kv_memory.erasers.shift_influence import ShiftInfluence

    known = (*names, ShiftInfluence.name, *erasers)
    return next(name for name in known if name in erasers)
