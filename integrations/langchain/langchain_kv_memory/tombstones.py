"""Tombstones: what stays of a message from which something was retracted, under its own ids, without the text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from kv_memory import Cuts, Redaction, cuts_of
from langchain_kv_memory.convert import text_of, to_openai
from langchain_kv_memory.documents import document_id, documents_of, places

_METADATA = ("finish_reason", "model", "model_name", "model_provider", "stop_reason")
"""Metadata of a response that never holds a text; log-probabilities do, token by token."""
_TEXT_BLOCK = ("type", "document_id", "id", "index")
"""Keys of a text block that are kept beside what is left of its text; citations and annotations may quote it."""


def tombstones(
    messages: Sequence[BaseMessage], redactions: Sequence[Redaction], retraction: str
) -> dict[int, BaseMessage]:
    """Return the messages that these redactions concern, cut; by their number."""
    if not messages or not redactions:
        return {}
    cuts = cuts_of(to_openai(messages, ()), redactions)
    return {i: _entombed(messages[i], cut, retraction) for i, cut in cuts.items()}


def _entombed(message: BaseMessage, cuts: Cuts, retraction: str) -> BaseMessage:
    cache = {**message.response_metadata.get("kv_memory", {}), "retraction": retraction}
    changed: dict[str, Any] = {
        "content": _cut_content(message, cuts),
        "additional_kwargs": {},  # providers keep copies of calls and of what was thought there
        "response_metadata": {**_known(message.response_metadata, _METADATA), "kv_memory": cache},
    }
    if isinstance(message, AIMessage):
        changed["tool_calls"] = [call for i, call in enumerate(message.tool_calls) if i not in cuts.calls]
        changed["invalid_tool_calls"] = []
    if isinstance(message, ToolMessage):
        changed["artifact"] = _cut_artifact(message, cuts)
    return message.model_copy(update=changed)


def _cut_content(message: BaseMessage, cuts: Cuts) -> str | list[str | dict[str, Any]]:
    if isinstance(message.content, str):
        return cuts.cut(message.content)
    left_calls = {call["id"] for i, call in enumerate(getattr(message, "tool_calls", [])) if i not in cuts.calls}
    blocks: list[str | dict[str, Any]] = []
    at = 0
    for block in message.content:
        text = block if isinstance(block, str) else block.get("text") if block.get("type") == "text" else None
        if isinstance(text, str):
            left, at = cuts.within(at, at + len(text)).cut(text), at + len(text)
            blocks.append(left if isinstance(block, str) else {**_known(block, _TEXT_BLOCK), "text": left})
        elif isinstance(block, dict) and block.get("id") in left_calls:
            blocks.append(block)  # all others, such as reasoning, may repeat what is retracted
    return blocks


def _known(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _cut_artifact(message: ToolMessage, cuts: Cuts) -> Any:
    """Return the artifact's documents without what was cut; an artifact of another kind may hold the text: it is
    dropped."""
    documents = documents_of(message.artifact)
    if not documents or len(documents) != len(message.artifact):
        return None
    gone, kept = set(), {}
    for document, start, end in places(text_of(message), documents):
        inside = cuts.within(start, end)
        left = inside.cut(document.page_content)
        if inside and not left.strip():
            gone.add(document_id(document))
        elif inside:
            kept[id(document)] = Document(page_content=left, id=document_id(document), metadata=document.metadata)
    return [kept.get(id(d), d) for d in documents if document_id(d) not in gone]
