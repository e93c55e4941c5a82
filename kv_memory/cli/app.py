"""The command line: `kv-memory demo`, `replay`, `calibrate`, `train-eraser`, `export-gguf`, `eval` and `audit`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kv_memory.errors import KVMemoryError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Model = Annotated[
    str | None, typer.Option(help="Path or hub id of a Hugging Face causal LM; default: the pocket model.")
]
Erasers = Annotated[
    list[str] | None,
    typer.Option(
        "--eraser",
        help="How to erase: a name, or the directory or hub id of a trained eraser; or one of each. Default: as the "
        "model was calibrated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Log = Annotated[Path, typer.Option("--log", help="The audit log.")]

audit = typer.Typer(no_args_is_help=True, help="Look into an audit log of retractions, and verify it.")
app.add_typer(audit, name="audit")
evaluate = typer.Typer(no_args_is_help=True, help="Measure erasers against a model that never saw the span.")
app.add_typer(evaluate, name="eval")


@app.callback()
def _root() -> None:
    """Erase what a local LLM should not have read from its KV cache, after it was read."""


@app.command()
def demo(eraser: Erasers = None, model: Model = None, as_json: AsJson = False) -> None:
    """An agent conversation in which a tool result is retracted after the model has read it."""
    from kv_memory.cli.demo import MESSAGES, QUESTION, STORY, TARGET

    if not as_json:
        typer.echo(f"{STORY}\n")
    _compare(MESSAGES, None, TARGET, question=QUESTION, erasers=eraser or (), model=model, as_json=as_json)


@app.command()
def replay(
    file: Annotated[
        Path, typer.Argument(help="Messages in OpenAI format: a JSON list, or JSONL with `messages`; gzip or not.")
    ],
    *,
    retract: Annotated[
        str | None, typer.Option(help="Id of a message, tool call, document or span. Without it the ids are listed.")
    ] = None,
    ask: Annotated[str | None, typer.Option(help="A question to ask; default: the assistant's next turn.")] = None,
    eraser: Erasers = None,
    model: Model = None,
    index: Annotated[int, typer.Option(help="Which conversation of the file, from 0.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Retract something from your own conversation; print the answers before, after, and had it never been seen."""
    from kv_memory.conversation.files import load_conversation

    messages, tools = load_conversation(file, index)
    if retract is None:
        _list_ids(messages)
    else:
        _compare(messages, tools, retract, question=ask, erasers=eraser or (), model=model, as_json=as_json)


def _list_ids(messages: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kv_memory.conversation.messages import parse_messages

    parsed = parse_messages(messages)
    table = Table(box=None, title="Choose one with --retract", title_justify="left", expand=True)
    ids = {"message id": [m.id for m in parsed], "tool call id": [m.tool_call_id for m in parsed]}
    ids = {column: values for column, values in ids.items() if any(values)}
    columns: dict[str, list[str | None]] = {"span": [f"s{len(parsed)}"], "role": ["assistant"], **ids}
    for column, values in columns.items():
        table.add_column(column, no_wrap=True, min_width=max(len(value or "") for value in values))
    table.add_column("text", no_wrap=True, ratio=1)
    for i, message in enumerate(parsed):
        calls = ", ".join(call.name for call in message.tool_calls)
        said = message.content or (f"calls {calls}" if calls else "")
        table.add_row(f"s{i}", message.role, *(values[i] for values in ids.values()), Text(repr(said[:200])[1:-1]))
    Console().print(table)


def _compare(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    target: str,
    *,
    question: str | None,
    erasers: Sequence[str],
    model: str | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    from kv_memory.conversation.messages import parse_messages

    parse_messages(messages)
    name, trained = _choice(erasers)  # a wrong name is said before a model is loaded
    with _progress(Console(stderr=True)) as progress:
        progress("Loading the model", 0, 0)
        from transformers.utils.logging import disable_progress_bar

        from kv_memory.evaluation.compare import compare
        from kv_memory.evaluation.show import show
        from kv_memory.sessions.memory import Memory

        disable_progress_bar()  # there is one already
        memory = Memory(model, eraser=trained or name, heal="never")
        memory.cache_tokens = 16 * memory.engine.capabilities.max_positions  # the same conversation several times over
        if name is not None:
            memory.load_eraser(name)
        result = compare(memory, messages, [target], tools=tools, question=question, eraser=name, progress=progress)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show(result, Console())


def _choice(erasers: Sequence[str]) -> tuple[str | None, str | None]:
    """The name of an eraser, and the directory or hub id of a trained one."""
    from kv_memory.erasers import get_eraser, is_files

    trained = [given for given in erasers if is_files(given)]
    names = [get_eraser(given).name for given in erasers if not is_files(given)]
    if max(len(trained), len(names)) > 1:
        raise KVMemoryError("Give --eraser at most one name and one trained eraser.")
    return next(iter(names), None), next(iter(trained), None)


@app.command()
def calibrate(
    *,
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: calibration.json in the model's directory, else in this one.")
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
    seed: Annotated[int, typer.Option(help="Of the cases and questions.")] = 0,
    fidelity: Annotated[
        Path | None, typer.Option(help="A calibration of this model: take fidelity from it, measure only the time.")
    ] = None,
    eraser: Annotated[
        str | None,
        typer.Option(
            help="A trained eraser, measured too: directory or hub id. Without --out, its eraser.json gets the result."
        ),
    ] = None,
) -> None:
    """Measure what every eraser leaves behind and costs on a model, and choose its default erasers."""
    from rich.console import Console

    with _progress(Console(stderr=True), "cases") as progress:
        progress("Loading torch", 0, 0)
        from transformers.utils.logging import disable_progress_bar

        from kv_memory.evaluation.calibrate.calibrate import Plan
        from kv_memory.evaluation.calibrate.command import run, show

        disable_progress_bar()  # there is one already
        plan = Plan(cases=cases, probes=probes, seed=seed)
        plan = replace(plan, spans=tuple(span or plan.spans), followings=tuple(following or plan.followings))
        result, path = run(model, plan, out=out, text=text, known=fidelity, eraser=eraser, progress=progress)
    show(result, Console())
    typer.echo(f"wrote {path}")


@app.command("train-eraser")
def train_eraser(
    *,
    text: Annotated[str, typer.Option(help="Text to train on: a file, a folder, or a dataset's name on the hub.")],
    out: Annotated[Path, typer.Option(help="The eraser's directory.")],
    model: Model = None,
    text_steps: Annotated[int, typer.Option(help="Steps on text.")] = 1000,
    task_steps: Annotated[int, typer.Option(help="Steps on questions about generated conversations.")] = 2000,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens of a context; may be given several times. Train on those to serve.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Tokens of a batch's contexts together.")] = 16384,
    balance: Annotated[
        list[str] | None, typer.Option(help="Draw a class of questions so often, as in binding=3; several times.")
    ] = None,
    questions: Annotated[int, typer.Option(help="About one span, at most.")] = 6,
    near_drop_steps: Annotated[int, typer.Option(help="First, steps towards what `drop` does.")] = 0,
    slots: Annotated[
        int | None, typer.Option(help="Cells of a span that are steered, the first; default: all.")
    ] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Slots all over the span, not its first cells.")] = False,
    sees_suffix: Annotated[bool, typer.Option("--sees-suffix", help="Slots see what follows the span too.")] = False,
    closes: Annotated[bool, typer.Option("--closes", help="Close the gap behind the slots.")] = False,
    content_free: Annotated[bool, typer.Option("--content-free", help="Slots do not read the span's tokens.")] = False,
    repair: Annotated[int, typer.Option(help="Train with so many tokens of `influence` run again afterwards.")] = 0,
    repair_share: Annotated[float, typer.Option(help="Of the steps with that repair.")] = 1.0,
    mass_weight: Annotated[
        float, typer.Option(help="In the loss, of the attention on slots: it disturbs answers that need none.")
    ] = 0.0,
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 16,
    alpha: Annotated[int, typer.Option(help="Of the LoRA.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="The highest.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Of weights and examples.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that make examples.")] = 2,
    start: Annotated[str | None, typer.Option(help="A trained eraser to go on from, with this plan.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for a third more time.")
    ] = False,
) -> None:
    """Train an eraser for a model, on text and on questions; the result is a directory to pass on."""
    from rich.console import Console

    console = Console(stderr=True)
    with _progress(console, "steps") as progress:
        progress("Loading torch", 0, 0)
        from transformers.utils.logging import disable_progress_bar

        from kv_memory.training.command import run, table_text
        from kv_memory.training.plan import Plan

        disable_progress_bar()  # there is one already
        plan = Plan.of(
            near_drop_steps=near_drop_steps,
            text_steps=text_steps,
            task_steps=task_steps,
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

        def report(step: int, loss: float, table: Any) -> None:
            progress(f"Training, loss {loss:.3f}", step, plan.steps)
            if table is not None:
                console.print(f"step {step:,}, loss {loss:.3f}", table_text(table), sep="\n", highlight=False)

        run(
            model,
            text,
            out,
            plan,
            start=start,
            resume=resume,
            workers=workers,
            say=lambda what: progress(what, 0, 0),
            report=report,
        )
    typer.echo(f"wrote {out}")


@app.command("export-gguf")
def export_gguf(
    eraser: Annotated[
        str | None, typer.Argument(help="Directory or hub id of a trained eraser. Without it a model is written.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The GGUF file.")],
    base: Annotated[
        Path | None, typer.Option(help="The eraser's model: its directory, or .gguf file; default: the pocket model.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Directory of a Qwen3, Qwen2 or Llama model to write; default: the pocket model."),
    ] = None,
    dtype: Annotated[Literal["f32", "f16", "q8_0"] | None, typer.Option(help="Of a model's matrices; f16.")] = None,
) -> None:
    """Write a trained eraser, or a model, as a GGUF file for llama.cpp."""
    from rich.console import Console

    if eraser is None and base is not None:
        raise KVMemoryError("--base goes with an eraser; write a model with --model.")
    if eraser is not None and (model is not None or dtype is not None):
        raise KVMemoryError(
            "--model and --dtype are for writing a model; say with --base which model the eraser is for."
        )
    with _progress(Console(stderr=True), "tensors") as progress:
        progress("Loading torch", 0, 0)
        from kv_memory.gguf import export_model
        from kv_memory.pocket import model_path
        from kv_memory.trained.export import export_adapter

        if eraser is None:
            export_model(
                model or model_path(), out, dtype or "f16", lambda done, total: progress("Writing", done, total)
            )
        else:
            progress("Reading the eraser and its model", 0, 0)
            export_adapter(eraser, base or model_path(), out)
    typer.echo(f"wrote {out}")


@evaluate.callback()
def _evaluate() -> None:
    """A group even while it has one command."""


@evaluate.command("leakage")
def eval_leakage(
    *,
    model: Model = None,
    eraser: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, or the directory or hub id of a trained eraser; may be given several times. Default: all."
        ),
    ] = None,
    probes: Annotated[int, typer.Option(help="Canaries, orders, and conversations with injections.", min=1)] = 40,
    generated: Annotated[int, typer.Option(help="Cases of isolation and of spoofing.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of canaries and cases.")] = 0,
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
    """What can be learned of erased text: canaries, attacks, membership, echoes, injections, isolation, spoofing."""
    from rich.console import Console

    with _progress(Console(stderr=True), "cases") as progress:
        progress("Loading torch", 0, 0)
        from transformers.utils.logging import disable_progress_bar

        from kv_memory.evaluation.leakage.command import run
        from kv_memory.evaluation.leakage.plan import Plan
        from kv_memory.evaluation.leakage.show import show

        disable_progress_bar()  # there is one already
        plan = Plan(probes=probes, generated=generated, seed=seed, data=data)
        result = run(model, eraser or (), plan, workers=workers, out=out, progress=progress)
    show(result, Console())
    if out is not None:
        typer.echo(f"wrote {out}")


@audit.command("list")
def audit_list(
    *,
    log: Log,
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    limit: Annotated[int, typer.Option(help="Only the latest so many rows.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """The rows of an audit log: intents, outcomes, refusals, healings and undoings."""
    from kv_memory.audit import AuditLog
    from kv_memory.audit.show import print_json, show_rows

    rows = AuditLog(log, reading=True).entries(session=session, limit=limit)
    print_json(rows=rows) if as_json else show_rows(rows)


@audit.command("show")
def audit_show(
    retraction: Annotated[str, typer.Argument(help="Its id, as in its report and in the list.")],
    *,
    log: Log,
    as_json: AsJson = False,
) -> None:
    """All that an audit log holds about one retraction."""
    from kv_memory.audit import AuditError, AuditLog
    from kv_memory.audit.show import print_json, show_retraction

    rows = AuditLog(log, reading=True).entries(retraction=retraction)
    if not rows:
        raise AuditError(f"The audit log {log} has no retraction {retraction!r}; kv-memory audit list gives the ids.")
    print_json(rows=rows) if as_json else show_retraction(rows)


@audit.command("verify")
def audit_verify(
    *,
    log: Log,
    key: Annotated[Path | None, typer.Option(help="The file with its key; default: the one beside the log.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether an audit log is as it was written; exit code 1 when it is not."""
    from kv_memory.audit import AuditLog
    from kv_memory.audit.key import read_key
    from kv_memory.audit.show import print_json, show_problems

    problems = AuditLog(log, key=None if key is None else read_key(key), reading=True).verify()
    print_json(problems=problems) if as_json else show_problems(problems)
    if problems:
        raise typer.Exit(1)


@contextmanager
def _progress(console: Any, unit: str = "tokens") -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, gone when it is done; a total of 0 means that nobody knows how long it takes."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, count="")

        def update(what: str, done: int, total: int) -> None:
            count = f"{done:,} of {total:,} {unit}" if total else ""
            bar.update(task, description=what, completed=done, total=total or None, count=count)

        yield update


def main() -> None:
    """Entry point: an error of the library is one line on standard error and exit code 2."""
    # Before torch is imported: threads that wait by spinning make it tens of times slower on a machine that is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except KVMemoryError as error:
        print(f"kv-memory: {error}", file=sys.stderr)
        sys.exit(2)
