"""The table of formats: which one something is, by its shape, and its conversations as messages and tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from kv_memory.conversation.formats import ai_sdk, anthropic, chatgpt, langchain, letta, sharegpt
from kv_memory.errors import ConversationError

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]] | None
_CONVERT: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Messages]], ...] = (
    (sharegpt.is_turn, sharegpt.messages_of),
    (langchain.is_message, langchain.messages_of),
    (ai_sdk.holds_tools, ai_sdk.messages_of),
    (anthropic.holds_results, anthropic.messages_of),
    (letta.holds_results, letta.messages_of),
)
"""Whether a message is of a format, and how it is converted; all other messages stay as they are."""
_HELP = "`kv-memory replay --help` names the formats that are read."
_MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class Stored:
    """A conversation as its file has it; `load` converts it, and raises ConversationError where it cannot be read."""

    load: Callable[[], tuple[Messages, Tools]]
    note: str = ""
    """Rows of the file that are no part of a conversation, as a sentence; "" where there are none."""


def stored_in(items: Sequence[Any], where: Callable[[int], str]) -> list[Stored]:
    """Return the conversations in the lines of a JSONL file or the elements of a JSON list.

    They are the messages of one conversation, the rows of a log, or a conversation each. `where`: how errors name an
    item, by its number.
    """
    if any(map(anthropic.is_log_row, items)):
        return [Stored(partial(_of_log, rows), note) for rows, note in anthropic.sessions_in(items)]
    if any(map(_is_message, items)):
        return list(_of_messages(items, None, ""))
    return [stored for number, item in enumerate(items) for stored in _of_record(item, where(number))]


def _is_message(item: Any) -> bool:
    if not isinstance(item, Mapping) or isinstance(item.get("messages"), list):
        return False
    return "role" in item or sharegpt.is_turn(item) or langchain.is_message(item)


def _of_record(record: Any, where: str) -> Iterator[Stored]:
    if isinstance(record, list):
        yield from _of_messages(record, None, where)
        return
    if isinstance(record, Mapping) and "custom_id" in record:  # a line of a batch
        record = record.get("body", record)
    if isinstance(record, Mapping) and "lc" in record and isinstance(record.get("kwargs"), Mapping):
        record = record["kwargs"]
    if not isinstance(record, Mapping):
        yield Stored(partial(_refuse, f"{where} has no list of messages; {_HELP}"))
    elif isinstance(record.get("messages"), list):
        yield from _of_messages(record["messages"], record, where)
    elif isinstance(record.get("conversations"), list):
        yield from _of_messages(record["conversations"], record, where)
    elif isinstance(record.get("mapping"), Mapping):
        yield Stored(partial(_of_export, record))
    elif isinstance(record.get("agents"), list):
        for agent in record["agents"]:
            yield from _of_record(
                {"tools": record.get("tools"), **agent} if isinstance(agent, Mapping) else agent, where
            )
    elif "response" in record:
        yield Stored(partial(_refuse, f"{where} is an answer without its conversation; give the file of requests."))
    else:
        fields = ", ".join(map(repr, list(record)[:5]))
        yield Stored(partial(_refuse, f"{where} has no list of messages (its fields: {fields}); {_HELP}"))


def _refuse(sentence: str) -> NoReturn:
    raise ConversationError(sentence)


def _of_messages(given: Sequence[Any], record: Mapping[str, Any] | None, where: str) -> Iterator[Stored]:
    """Yield the conversation of these messages; Letta's files may hold those of several agents side by side."""
    agents = {str(m.get("agent_id")) if isinstance(m, Mapping) else "None": m for m in given}
    for agent in agents if len(agents) > 1 and "None" not in agents else [""]:
        own = [m for m in given if not agent or str(m["agent_id"]) == agent]
        yield Stored(partial(_loaded, own, record or {}, where))


def _of_export(export: Mapping[str, Any]) -> tuple[Messages, Tools]:
    return chatgpt.messages_of(export), None


def _of_log(rows: Sequence[Mapping[str, Any]]) -> tuple[Messages, Tools]:
    return _flat(anthropic.conversation_of(rows)), None


def _loaded(given: Sequence[Any], record: Mapping[str, Any], where: str) -> tuple[Messages, Tools]:
    media = next((key for key in _MEDIA if record.get(key)), None)
    if media is not None:
        raise ConversationError(f"{where} has a field {media!r} that is not empty; only text can be read.")
    system = record.get("system")
    said: Messages = [{"role": "system", "content": system}] if system else []
    return [*said, *_flat(given)], _tools(record, where)


def _flat(given: Sequence[Any]) -> Messages:
    return [said for message in given for said in _messages(message)]


def _messages(given: Any) -> list[Any]:
    """Return a message of any format as messages that `parse_messages` reads or refuses."""
    if not isinstance(given, Mapping):
        return [given]
    convert = next((convert for is_one, convert in _CONVERT if is_one(given)), None)
    return [dict(given)] if convert is None else convert(given)


def _tools(record: Mapping[str, Any], where: str) -> Tools:
    given = record.get("tools") or record.get("functions")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConversationError(f"{where}: its tools are not JSON: {error}.") from None
    if not given:
        return None
    if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
        raise ConversationError(f"{where}: its tools are no list of objects.")
    plain = "functions" in record or "conversations" in record
    return [_tool(tool, plain) for tool in given]


def _tool(tool: Mapping[str, Any], plain: bool) -> dict[str, Any]:
    """Return a tool in OpenAI's form; `plain`: whether the format describes the function alone."""
    if isinstance(tool.get("input_schema"), Mapping):
        return anthropic.tool_of(tool)
    if isinstance(tool.get("json_schema"), Mapping):  # Letta
        return {"type": "function", "function": dict(tool["json_schema"])}
    return {"type": "function", "function": dict(tool)} if plain and "function" not in tool else dict(tool)
