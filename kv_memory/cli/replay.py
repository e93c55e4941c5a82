"""`kv-memory replay`: a retraction in the user's own conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kv_memory.cli._comparison import run_comparison
from kv_memory.cli._options import AsJson, Erasers, Model
from kv_memory.errors import KVMemoryError


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON or JSONL, gzip or not; - reads standard input. OpenAI messages, requests and batches, Anthropic "
            "requests, Claude Code logs, ChatGPT exports, ShareGPT, LangChain and AI SDK messages, Letta agent files."
        ),
    ],
    *,
    retract: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of a message, tool call, result or document; may be repeated. Without it the ids are listed."
        ),
    ] = None,
    ask: Annotated[str | None, typer.Option(help="A question to ask; default: the assistant's next turn.")] = None,
    eraser: Erasers = None,
    model: Model = None,
    context_length: Annotated[
        int | None,
        typer.Option(help="Longest conversation in tokens; default: what the model says. A GGUF model's takes memory."),
    ] = None,
    checkpoint_mb: Annotated[
        float | None,
        typer.Option(help="Megabytes for checkpoints of a model with recurrent layers; default: 512."),
    ] = None,
    index: Annotated[int, typer.Option(help="Which conversation of the file, from 0.")] = 0,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the conversations of the file, with their tokens.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Retract something from your own conversation; print the answers before, after, and without it from the start."""
    from kv_memory.cli._ids import check_targets, show_conversations, show_ids
    from kv_memory.conversation.files import ConversationFile
    from kv_memory.evaluation.asked import context_of

    if list_all and retract:
        raise KVMemoryError("--list and --retract do not go together; choose a conversation with --index first.")
    given = ConversationFile(file)
    if list_all:
        show_conversations(given, ask, model, as_json=as_json)
        return
    messages, tools = given.load(index)
    if given.note(index):
        typer.echo(f"kv-memory: {given.note(index)}", err=True)
    if not retract:
        show_ids(given, index, messages, ask, as_json=as_json)
        return
    check_targets(messages, retract, ask, str(file))
    run_comparison(
        context_of(messages, ask),
        tools,
        retract,
        question=ask,
        erasers=eraser or (),
        model=model,
        as_json=as_json,
        context_length=context_length,
        checkpoint_mb=checkpoint_mb,
    )
