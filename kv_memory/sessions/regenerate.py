"""Turns that depended on what was retracted, generated again without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.redactions import cuts_for
from kv_memory.sessions.dependence import places_of_dependent
from kv_memory.sessions.reply import Reply
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.state import SessionState


def regenerate(
    state: SessionState,
    chat: Callable[[Sequence[Mapping[str, Any]]], Reply],
    report: RetractionReport,
    messages: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the conversation with its dependent turns generated again by `chat`; see `Session.regenerate`."""
    with state.engine.lock:
        given = state.identify(parse_messages(messages))
        cuts = cuts_for(given, state.records.redactions)
        dependent = places_of_dependent(state.branches.by_use, report.dependences, given, cuts)
    result: list[dict[str, Any]] = []
    for place, (message, left) in enumerate(zip(messages, report.tombstones(messages), strict=True)):
        if place not in dependent:
            result.append(left)
            continue
        reply = chat(result).message
        with state.engine.lock:
            if state.host.originals.sealed(parse_messages([reply])[0]).digest() == given[place].digest():
                # The model wrote the same without the retracted text, so what is retracted of this message goes.
                again = [redaction for redaction in report.redactions if place in cuts_for(given, [redaction])]
                state.records.withdraw(report.id, again, reason="written again without it")
        result.append({**reply, **({"id": message["id"]} if "id" in message else {})})
        if reply.get("tool_calls") or given[place].tool_calls:
            break
    return result
