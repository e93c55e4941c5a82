"""`kv-memory train-eraser`: trains an eraser for a model on text, and writes its directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_memory.cli._options import Model
from kv_memory.cli._progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table


def train_eraser(
    *,
    text: Annotated[str, typer.Option(help="Text to train on: a file, a folder, or a dataset's name on the hub.")],
    out: Annotated[Path, typer.Option(help="The eraser's directory.")],
    model: Model = None,
    text_steps: Annotated[int, typer.Option(help="Steps on text.")] = 1000,
    task_steps: Annotated[
        int, typer.Option(help="Steps on questions, of generated conversations and of suites.")
    ] = 2000,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="A suite with questions on real data, as in `kv-memory eval`; may be given several times."),
    ] = None,
    suite_share: Annotated[float, typer.Option(help="Share of the batches of questions that are of suites.")] = 0.5,
    data: Annotated[
        Path | None, typer.Option(envvar="KV_MEMORY_DATA", help="Folder with the files that the suites read.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens of a context; may be given several times. Train on those to serve.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Tokens of a batch's contexts together.")] = 16384,
    balance: Annotated[
        list[str] | None, typer.Option(help="Weight of a class of questions, as in binding=3; can be repeated.")
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions about one span, at most.")] = 6,
    near_drop_steps: Annotated[int, typer.Option(help="Initial steps that bring the attention on slots near 0.")] = 0,
    slots: Annotated[
        int | None, typer.Option(help="Number of the span's first cells that are steered; default: all.")
    ] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Slots spread over the span, not its first cells.")] = False,
    sees_suffix: Annotated[bool, typer.Option("--sees-suffix", help="Slots see what follows the span too.")] = False,
    closes: Annotated[bool, typer.Option("--closes", help="Close the gap behind the slots.")] = False,
    content_free: Annotated[bool, typer.Option("--content-free", help="Slots do not read the span's tokens.")] = False,
    repair: Annotated[
        int, typer.Option(help="Train with this many tokens recomputed by `influence` after the erasure.")
    ] = 0,
    repair_share: Annotated[float, typer.Option(help="Share of the steps that have this recompute.")] = 1.0,
    mass_weight: Annotated[
        float, typer.Option(help="Weight in the loss of attention on slots: it disturbs answers that need no slot.")
    ] = 0.0,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA.")] = 16,
    alpha: Annotated[int, typer.Option(help="Alpha of the LoRA.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Seed of weights and examples.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that make examples.")] = 2,
    start: Annotated[str | None, typer.Option(help="A trained eraser to continue from, with this plan.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for a third more time.")
    ] = False,
) -> None:
    """Train an eraser for a model, on text and on questions, and write its directory."""
    from rich.console import Console

    console = Console(stderr=True)
    with progress_bar("steps", console) as progress:
        from kv_memory.training.plan import Plan
        from kv_memory.training.run import run

        plan = Plan.of(
            near_drop_steps=near_drop_steps,
            text_steps=text_steps,
            task_steps=task_steps,
            suites=tuple(suite or ()),
            suite_share=suite_share,
            tokens=batch,
            balance=dict(item.partition("=")[::2] for item in balance or ()),
            questions=questions,
            slots=slots,
            spread=spread,
            sees_suffix=sees_suffix,
            closes=closes,
            content_free=content_free,
            repair=repair,
            repair_share=repair_share,
            mass_weight=mass_weight,
            rank=rank,
            alpha=alpha,
            learning_rate=learning_rate,
            seed=seed,
            gradient_checkpointing=gradient_checkpointing,
            **({"lengths": tuple(length)} if length else {}),
        )

        def report(step: int, loss: float, table: dict[str, dict[str, float]] | None) -> None:
            progress(f"Training, loss {loss:.3f}", step, plan.steps)
            if table is not None:
                console.print(f"step {step:,}, loss {loss:.3f}", _validation(table), sep="\n", highlight=False)

        run(
            model,
            text,
            out,
            plan,
            data=data,
            start=start,
            resume=resume,
            workers=workers,
            say=lambda what: progress(what, 0, 0),
            takes=lambda needed: console.print(f"The training takes {needed}.", highlight=False),
            report=report,
        )
    typer.echo(f"wrote {out}")


def _validation(table: dict[str, dict[str, float]]) -> Table:
    from rich.table import Table

    shown = Table(box=None)
    columns = list(next(iter(table.values())))
    for column in ("class", *columns):
        shown.add_column(column, justify="left" if column == "class" else "right")
    for kind, row in table.items():
        shown.add_row(kind, *(f"{row[column]:.3f}" for column in columns))
    return shown
