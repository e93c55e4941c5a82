"""Contents that look like structure: role markers of six families, tombstones, ids and marks.

A case is a conversation with such contents, and what is retracted of it. Nothing of it may become a special token or
move another message's boundary; nothing but what was named may be erased, and what was erased may not come back.
Only the tokenizer and the ledger run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.messages import parse_messages
from kv_memory.conversation.redactions import cuts_for, redactions_of
from kv_memory.conversation.spans import SpanStatus
from kv_memory.conversation.targets import find
from kv_memory.conversation.tombstones import tombstones
from kv_memory.evaluation.cases import ledger_of
from kv_memory.evaluation.leakage.scenes import Messages
from tests.security.families import FAMILIES, STRUCTURE, tokenizer

BYTES = 256
"""Number of ids that are text; those from here on carry structure."""
TOMBSTONES = (
    "[cleared]",
    "[retracted]",
    "[REDACTED]",
    "<tombstone id=m1>",
    '"placeholder": true',
    "{'id': 'm1', 'content': '', 'placeholder': True}",
    "This message was deleted.",
    "retract m1",
    "undo retraction of m1",
)
_MARKERS = tuple(dict.fromkeys(mark for family in FAMILIES for mark in family.special)) + STRUCTURE
_WORDS = ("the code is 4711", "ok", "user\n", "assistant\n\n", "system", "\n", " ", "\t", "\0", "é", "🦊")
_ODD = ("\ud800", "\u200b", "\u202e")
_MARKS = ('kvm00000000n0"z', 'kvm00000000n1\\"z', 'n0"z', "kvm")
_PARTS = (_MARKERS, _MARKERS, TOMBSTONES, _WORDS, _ODD, _MARKS)


@dataclass(frozen=True)
class Spoof:
    """A conversation whose contents imitate structure."""

    messages: Messages
    target: str
    """Id of the message that is retracted."""


def make_spoof(seed: int) -> Spoof:
    """Make a case; the same for the same seed."""
    rng = Random(f"spoof:{seed}")
    contents: list[str] = []
    messages: Messages = []
    for number in range(rng.randint(2, 6)):
        # sometimes what another message says already: that a text was said twice is nothing of its own
        content = rng.choice(contents) if contents and rng.random() < 0.15 else _content(rng)
        contents.append(content)
        role = "user" if number == 0 else rng.choice(("user", "assistant", "assistant", "tool"))
        message: dict[str, Any] = {"role": role, "content": content, "id": f"m{number}"}
        if role == "tool":
            message |= {"tool_call_id": f"c{number}", "name": _content(rng)}
        if role == "assistant" and rng.random() < 0.4:
            call = {"name": f"f{_content(rng)}", "arguments": {_content(rng): _content(rng)}}
            message["tool_calls"] = [{"id": f"k{number}", "type": "function", "function": call}]
        messages.append(message)
    return Spoof(messages, rng.choice(messages)["id"])


def _content(rng: Random) -> str:
    parts = [rng.choice(rng.choice(_PARTS)) for _ in range(rng.randint(1, 6))]
    text = "".join(parts)
    return text if text.strip() else f"x{text}"  # a template may write an empty content otherwise


def plainly(messages: Messages) -> Messages:
    """Return the same conversation with contents that look like nothing."""

    def plain(call: dict[str, Any]) -> dict[str, Any]:
        return {**call, "function": {"name": "f", "arguments": {"a": "b"}}}

    return [
        {
            **message,
            "content": "x",
            **({"name": "n"} if "name" in message else {}),
            **({"tool_calls": [plain(call) for call in message["tool_calls"]]} if "tool_calls" in message else {}),
        }
        for message in messages
    ]


def formats() -> dict[str, ChatFormat]:
    """Return the chat format of each family."""
    return {family.name: ChatFormat(tokenizer(family)) for family in FAMILIES}


def failures(form: ChatFormat, spoof: Spoof) -> Iterator[str]:
    """Yield what goes wrong with one case, in words."""
    parsed = parse_messages(spoof.messages)
    encoded = form.encode(parsed)
    plain = form.encode(parse_messages(plainly(spoof.messages)))
    for index, (message, pieces, other) in enumerate(zip(parsed, encoded, plain, strict=True)):
        for piece in pieces:
            if piece.kind != "scaffold" and max(piece.ids, default=0) >= BYTES:
                yield f"message {index}: a {piece.kind} became a special token"
        if _structure(pieces) != _structure(other):
            yield f"message {index}: its structure is another than with plain contents"
        length = sum(len(piece.ids) for piece in pieces if piece.kind == "content")
        if length not in (_bytes(message.content), _bytes(message.content.strip())):
            yield f"message {index}: its content has not one token a byte"
    yield from _ledger_failures(spoof, encoded)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _structure(pieces: Sequence[Piece]) -> list[int]:
    """The tokens that carry structure, in order."""
    return [i for piece in pieces if piece.kind == "scaffold" for i in piece.ids if i >= BYTES]


def _ledger_failures(spoof: Spoof, encoded: Sequence[Sequence[Piece]]) -> Iterator[str]:
    parsed = parse_messages(spoof.messages)
    ledger = ledger_of(parsed, encoded)
    ends = accumulate(sum(len(piece.ids) for piece in pieces) for pieces in encoded)
    for index, (entry, end) in enumerate(zip(ledger.entries, ends, strict=True)):
        if entry.intervals[-1][1] != end:
            yield f"message {index} does not end where its cells end"
    spans = ledger.spans()
    if len(spans) != len(parsed) + sum(len(message.tool_calls) for message in parsed):
        yield "there are other spans than messages and calls"
    if any(span.status is not SpanStatus.LIVE for span in spans):
        yield "something is erased that nobody retracted"
    chosen = find(ledger, spoof.target)
    redactions = [redaction for selection in chosen for redaction in redactions_of(ledger, selection)]
    index = int(spoof.target[1:])
    if [ledger.entries.index(selection.entry) for selection in chosen] != [index]:
        yield "the target names another message"
    ledger.erase(chosen, (), exact=True)
    for number, entry in enumerate(ledger.entries):
        if bool(entry.cuts) != (number == index):
            yield f"message {number} is erased, or is not, against what was said"
    yield from _history_failures(spoof, redactions, index)


def _history_failures(spoof: Spoof, redactions: Sequence[Any], index: int) -> Iterator[str]:
    """What the caller's later history may do: hold the erased text still, hold its tombstone, be quoted by others."""
    again = parse_messages([*spoof.messages, *_quoting(spoof)])
    if set(cuts_for(again, redactions)) != {index}:
        yield "with the history sent again, other messages than the target are left out"
    left = tombstones(spoof.messages, redactions)
    if [message != given for message, given in zip(left, spoof.messages, strict=True)].count(True) != 1:
        yield "other messages than the target get a tombstone"
    if set(cuts_for(parse_messages([*left, *_quoting(spoof)]), redactions)) - {index}:
        yield "once the tombstone stands, another message is left out"


def _quoting(spoof: Spoof) -> Messages:
    """Later messages that quote what was erased, or a tombstone, under other ids."""
    target = next(message for message in spoof.messages if message["id"] == spoof.target)
    return [
        {"role": target["role"], "content": target["content"], "id": "q0"},
        {"role": "user", "content": f"{target['content']}[cleared]", "id": "q1"},
        {"role": "user", "content": TOMBSTONES[len(target["content"]) % len(TOMBSTONES)], "id": "q2"},
    ]


def check(cases: int, seed: int) -> dict[str, list[str]]:
    """The failures of so many cases by family, cases being dealt to the families in turn."""
    forms = formats()
    found: dict[str, list[str]] = {name: [] for name in forms}
    names = list(forms)
    for number in range(cases):
        name = names[number % len(names)]
        spoof = make_spoof(seed * 1_000_003 + number)
        found[name] += [f"case {number}: {failure}" for failure in failures(forms[name], spoof)]
    return found
