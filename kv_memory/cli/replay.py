"""`kv-memory replay`: a retraction in the user's own conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kv_memory.cli._comparison import run_comparison
from kv_memory.cli._options import AsJson, Erasers, Model


def replay(
    file: Annotated[
        Path, typer.Argument(help="Messages in OpenAI format: a JSON list, or JSONL with `messages`; gzip or not.")
    ],
    *,
    retract: Annotated[
        list[str] | None,
        typer.Option(help="Id of a message, tool call, document or span; may be repeated. Without it ids are listed."),
    ] = None,
    ask: Annotated[str | None, typer.Option(help="A question to ask; default: the assistant's next turn.")] = None,
    eraser: Erasers = None,
    model: Model = None,
    index: Annotated[int, typer.Option(help="Which conversation of the file, from 0.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Retract something from your own conversation; print the answers before, after, and without it from the start."""
    from kv_memory.conversation.files import load_conversation

    messages, tools = load_conversation(file, index)
    if not retract:
        _list_ids(messages)
    else:
        run_comparison(messages, tools, retract, question=ask, erasers=eraser or (), model=model, as_json=as_json)


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
