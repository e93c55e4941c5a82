"""Lists for `replay`: the ids of a conversation, and the conversations of a file. No weights are loaded for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kv_memory.conversation.files import ConversationFile
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.spans import Span, SpanKind
from kv_memory.conversation.targets import find, names
from kv_memory.errors import ConversationError, UnknownTargetError
from kv_memory.evaluation.asked import context_of

if TYPE_CHECKING:
    from kv_memory.conversation.token_counter import TokenCounter

_WHAT = {SpanKind.TOOL_CALL: "call", SpanKind.TOOL_RESULT: "result"}
_SHOWN = 200
"""Characters of a text that a table may have room for."""


def ledger_of(messages: Sequence[Any]) -> Ledger:
    """Return a conversation as a ledger that has no cells: it knows its ids."""
    ledger = Ledger()
    for message in parse_messages(messages):
        ledger.append(message, [], 0)
    return ledger


def check_targets(messages: Sequence[Any], targets: Sequence[str], question: str | None, file: str) -> None:
    """Raise KVMemoryError, in one sentence, where a comparison could not retract these targets."""
    everything, read = ledger_of(messages), ledger_of(context_of(messages, question))
    for target in targets:
        try:
            find(read, target)
        except UnknownTargetError:
            how = f"`kv-memory replay {file}` lists the ids"
            if any(target in ids for _, ids in names(everything)):
                how = "it is in the last answer, which is given again: ask a question with --ask to retract it"
            raise UnknownTargetError(f"Nothing that the model would read has the id {target!r}; {how}.") from None


def show_ids(
    file: ConversationFile, index: int, messages: Sequence[Any], question: str | None, *, as_json: bool
) -> None:
    """Print what can be retracted from a conversation, each with the ids that `--retract` takes."""
    rows = _rows(parse_messages(messages), names(ledger_of(context_of(messages, question))))
    if as_json:
        print(json.dumps({"index": index, "conversations": len(file), "ids": rows}, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("id", overflow="fold")
    also = any(len(row["ids"]) > 1 for row in rows)
    for column in ["or"] * also + ["what"]:
        table.add_column(column, style="dim" if column == "or" else "", overflow="fold")
    table.add_column("text", no_wrap=True, ratio=1)
    for row in rows:
        first, *others = map(Text, row["ids"])
        text = Text(repr(row["text"][:_SHOWN])[1:-1])
        table.add_row(first, *([Text("\n").join(others)] if also else []), row["what"], text)
    console = Console()
    if len(file) > 1:
        console.print(f"Conversation {index} of {len(file)}; --list shows all, --index chooses.", highlight=False)
    console.print("Give any of these ids to --retract:", style="bold")
    console.print(table)
    if len(messages) > len(context_of(messages, question)):
        console.print(
            "The last answer is compared, and is not listed: --ask asks a question after it.", highlight=False
        )


def _rows(messages: Sequence[Message], found: Sequence[tuple[Span, tuple[str, ...]]]) -> list[dict[str, Any]]:
    rows = []
    for span, ids in found:
        typeable = [name for name in ids if name.strip() and name.isprintable()]
        row = {"ids": typeable, "what": _WHAT.get(span.kind, span.kind.value), "message": span.message}
        rows.append({**row, "text": _text(messages[span.message], span)})
    return rows


def _text(message: Message, span: Span) -> str:
    if span.kind is SpanKind.TOOL_CALL:
        call = message.tool_calls[int(span.id.rpartition(".call")[2])]
        return f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})"
    if span.chars is not None:
        return message.content[slice(*span.chars)]
    calls = ", ".join(call.name for call in message.tool_calls)
    return message.content or (f"calls {calls}" if calls else "")


def show_conversations(file: ConversationFile, question: str | None, model: str | None, *, as_json: bool) -> None:
    """Print a table of a file's conversations: number, messages, ids, tokens, and how each begins or why it cannot be
    read.

    The tokens are those that `replay` reads of it before it answers, with the tokenizer of `model` alone.
    """
    rows = _counted([_row(file, index) for index in range(len(file))], file, question, model)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = ("index", "messages", "ids", "tokens")
    table = Table(box=None, pad_edge=False, expand=True)
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("begins", overflow="fold", ratio=1)
    for row in rows:
        error = row.get("error")
        begins = (
            Text(error, style="red") if error else Text(repr(row["begins"])[1:-1], no_wrap=True, overflow="ellipsis")
        )
        table.add_row(*("" if error and key not in row else str(row.get(key, "-")) for key in columns), begins)
    console = Console()
    console.print(table)
    for row in rows:
        if "not_counted" in row:
            console.print(f"Conversation {row['index']} is not counted: {row['not_counted']}", highlight=False)


def _row(file: ConversationFile, index: int) -> dict[str, Any]:
    try:
        messages = parse_messages(file.load(index)[0])
        ledger = ledger_of(file.load(index)[0])
    except ConversationError as error:
        return {"index": index, "error": str(error)}
    begins = next((message.content for message in messages if message.role == "user"), messages[0].content)
    return {"index": index, "messages": len(messages), "ids": len(ledger.spans()), "begins": begins[:_SHOWN]}


def _counted(
    rows: list[dict[str, Any]], file: ConversationFile, question: str | None, model: str | None
) -> list[dict[str, Any]]:
    """Return the rows with their tokens, or why the model's chat template cannot say that conversation."""
    counter: TokenCounter | None = None
    for row in rows:
        if "error" in row:
            continue
        if counter is None:
            from kv_memory.conversation.token_counter import TokenCounter

            counter = TokenCounter(model)
        messages, tools = file.load(row["index"])
        try:
            context = context_of(messages, question)
            asked = context if question is None else [*context, {"role": "user", "content": question}]
            row["tokens"] = counter.count_tokens(asked, tools)
        except ConversationError as error:
            row["not_counted"] = str(error)
    return rows
