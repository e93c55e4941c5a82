"""The conversion of a kv_memory reply to LangChain's message, or to the chunks of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from kv_memory import FinishReason, InvalidCall, Reply, ReplyPart, ReplyStream
from langchain_kv_memory.convert import REASONING, THOUGHTS


def message_of(reply: Reply, metadata: dict[str, Any]) -> AIMessage:
    """Return the answer as a message. A call that cannot be run stays in the content and is listed as invalid."""
    thoughts = reply.message.get(THOUGHTS)
    return AIMessage(
        content=reply.message["content"],
        additional_kwargs={REASONING: thoughts} if thoughts else {},
        tool_calls=[_call(call) for call in reply.message.get("tool_calls", [])],
        invalid_tool_calls=[_invalid(call) for call in reply.invalid_calls],
        usage_metadata=usage_of(reply),
        response_metadata=metadata_of(reply, metadata),
    )


def chunks_of(stream: ReplyStream, metadata: dict[str, Any]) -> Iterator[ChatGenerationChunk]:
    """Yield the answer as it is written; the last chunk has its usage and why it ended.

    A call comes in one chunk, once it is complete: of the beginning of a call LangChain would make a valid one.
    """
    numbers = count()
    for part in stream.parts():
        yield ChatGenerationChunk(message=_chunk(part, numbers))
    reply = stream.reply
    assert reply is not None, "an exhausted stream has its reply"
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            usage_metadata=usage_of(reply),
            response_metadata=metadata_of(reply, metadata),
            chunk_position="last",
        )
    )


def _chunk(part: ReplyPart, numbers: Iterator[int]) -> AIMessageChunk:
    if part.call is not None:
        function = part.call["function"]
        call = tool_call_chunk(
            name=function["name"], args=function["arguments"], id=part.call["id"], index=next(numbers)
        )
        return AIMessageChunk(content="", tool_call_chunks=[call])
    if part.invalid is not None:
        invalid = _invalid(part.invalid)
        call = tool_call_chunk(name=invalid["name"], args=invalid["args"], id=None, index=next(numbers))
        return AIMessageChunk(content="", tool_call_chunks=[call])
    if part.kind == "reasoning":
        return AIMessageChunk(content="", additional_kwargs={REASONING: part.text})
    return AIMessageChunk(content=part.text)


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
    called = reply.message.get("tool_calls") and reply.finish_reason is FinishReason.STOP
    reason = "tool_calls" if called else str(reply.finish_reason)
    return {**metadata, "finish_reason": reason, "kv_memory": {**metadata["kv_memory"], **cache}}


def _call(call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    args = json.loads(function["arguments"])
    return ToolCall(type="tool_call", id=call["id"], name=function["name"], args=args)


def _invalid(call: InvalidCall) -> InvalidToolCall:
    """Return an invalid call with its text as a JSON string: LangChain completes JSON that is cut off, and would make a
    valid call of it when it adds up chunks."""
    return InvalidToolCall(
        type="invalid_tool_call", id=None, name=call.name, args=json.dumps(call.text), error=call.error
    )
