"""Tombstones: what is left of the messages of a history without what was retracted; ids and order stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kv_memory.conversation.messages import Cuts, Message, parse_messages, recut
from kv_memory.conversation.openai_form import REASONING, openai_form
from kv_memory.conversation.originals import Originals
from kv_memory.conversation.redactions import Redaction, cuts_for


def cuts_of(messages: Sequence[Mapping[str, Any]], redactions: Sequence[Redaction]) -> dict[int, Cuts]:
    """Return what these redactions leave out of a conversation in OpenAI's format, by message index.

    The conversation may hold any versions of its messages; the cuts count the characters that these have. Raises
    KVMemoryError where the redactions are of another process whose memory had no audit log.
    """
    parsed = parse_messages(messages)
    result: dict[int, Cuts] = {}
    for key in dict.fromkeys(redaction.key for redaction in redactions):
        own = [redaction for redaction in redactions if redaction.key == key]
        originals = Originals.named(key)
        originals.learn(own)
        identified = originals.identify(parsed, {redaction.digest for redaction in own}, originals.digests)
        for i, cuts in cuts_for(identified, own).items():
            result[i] = result.get(i, Cuts()) | in_version(cuts, identified[i])
    return {i: cuts for i, cuts in sorted(result.items()) if cuts}


def in_version(cuts: Cuts, message: Message) -> Cuts:
    """Return cuts of an original as cuts of this version of it; what the version lacks is left out."""
    left, missing = cuts - message.missing, message.missing
    there = [i for i in range(len(message.tool_calls)) if i not in missing.calls]
    return Cuts(
        tuple(recut(interval, missing.chars) for interval in left.chars),
        frozenset(number for number, i in enumerate(there) if i in left.calls),
    )


def tombstones(messages: Sequence[Mapping[str, Any]], redactions: Sequence[Redaction]) -> list[dict[str, Any]]:
    """Return the messages without what was retracted; ids and order stay. One that something was cut from is in
    OpenAI's form. Raises as `cuts_of`."""
    cuts = cuts_of(messages, redactions)
    return [_cut(message, i, cuts[i]) if i in cuts else dict(message) for i, message in enumerate(messages)]


def _cut(message: Mapping[str, Any], index: int, cuts: Cuts) -> dict[str, Any]:
    result = openai_form(message, index)
    content = result.get("content")
    if isinstance(content, str):
        result["content"] = cuts.cut(content)
    elif isinstance(content, (list, tuple)):
        parts, at = [], 0
        for given in content:
            part = {"type": "text", "text": given} if isinstance(given, str) else dict(given)
            end = at + len(part["text"])
            parts.append({**part, "text": cuts.within(at, end).cut(part["text"])})
            at = end
        result["content"] = parts
    if parse_messages([message])[0].wholly_in(cuts):
        result = {key: value for key, value in result.items() if key not in REASONING}
    if cuts.calls:
        result["tool_calls"] = [call for i, call in enumerate(result["tool_calls"]) if i not in cuts.calls]
    return result
