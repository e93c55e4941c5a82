"""The conversion of a kv_memory reply to LangChain's message, or to the chunks of one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from kv_memory import Reply, ReplyStream
from langchain_kv_memory.call_stream import CLOSE, OPEN, CallStream

_WRITTEN_CALL = re.compile(rf"{OPEN}\s*(.*?)\s*(?:{CLOSE}|$)", re.DOTALL)


def message_of(reply: Reply, metadata: dict[str, Any]) -> AIMessage:
    """Return the answer as a message. A call that cannot be parsed stays in the content and is listed as invalid."""
    calls = reply.message.get("tool_calls", [])
    return AIMessage(
        content=reply.message["content"],
        tool_calls=[_call(call) for call in calls],
        invalid_tool_calls=[] if calls else _invalid(reply.text),
        usage_metadata=usage_of(reply),
        response_metadata=metadata_of(reply, metadata),
    )


def chunks_of(stream: ReplyStream, metadata: dict[str, Any]) -> Iterator[ChatGenerationChunk]:
    """Yield the answer as it is written; the last chunk has its usage and why it ended."""
    parts = CallStream(stream.call_id)
    for text in stream:
        for part in parts.push(text):
            words, calls = (part, []) if isinstance(part, str) else ("", [part])
            yield ChatGenerationChunk(message=AIMessageChunk(content=words, tool_call_chunks=calls))
    reply = stream.reply
    assert reply is not None, "an exhausted stream has its reply"
    # what was taken for the beginning of a call and is none is part of the content after all
    rest = reply.message["content"][len(parts.said) :]
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content=rest,
            usage_metadata=usage_of(reply),
            response_metadata=metadata_of(reply, metadata),
            chunk_position="last",
        )
    )


def usage_of(reply: Reply) -> UsageMetadata:
    """Return token counts: `cache_read` were in the cache, `cache_creation` prefilled, `kv_erased` retracted and left
    out."""
    usage = reply.usage
    details: dict[str, int] = {
        "cache_read": usage.reused,
        "cache_creation": usage.prefilled,
        "kv_erased": usage.left_out,
    }
    given = sum(details.values())
    return UsageMetadata(
        input_tokens=given,
        output_tokens=usage.generated,
        total_tokens=given + usage.generated,
        input_token_details=details,  # type: ignore[typeddict-item]  # the detail of our own
    )


def metadata_of(reply: Reply, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the response metadata: `metadata`, why the answer ended, and what the cache did; never text."""
    usage = reply.usage
    cache = {
        "branch": usage.branch,
        "reused": usage.reused,
        "prefilled": usage.prefilled,
        "erased": usage.erased,
        "left_out": usage.left_out,
        "corrected": list(usage.corrected),
    }
    reason = "tool_calls" if reply.message.get("tool_calls") else str(reply.finish_reason)
    return {**metadata, "finish_reason": reason, "kv_memory": {**metadata["kv_memory"], **cache}}


def _call(call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    args = json.loads(function["arguments"])
    return ToolCall(type="tool_call", id=call["id"], name=function["name"], args=args)


def _invalid(text: str) -> Sequence[InvalidToolCall]:
    error = "This is not the JSON of a tool call."
    return [
        InvalidToolCall(type="invalid_tool_call", id=None, name=None, args=written, error=error)
        for written in _WRITTEN_CALL.findall(text)
    ]
