"""The tokens of an answer by what they are: content, thoughts, each call, and the markers around them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from kv_memory.conversation.chat_format import Piece
from kv_memory.conversation.tool_calls.answer import Answer
from kv_memory.conversation.tool_calls.formats import Segment, skip
from kv_memory.engines.base import Tokenizer
from kv_memory.positions import Interval


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int], answer: Answer) -> list[Piece]:
    """Split the generated tokens.

    One that is part of two segments belongs to the first, but for white space and markup before the other: a word
    brings its space.
    """
    chars = char_intervals(tokenizer, list(ids), answer.text)
    owners = _owners(answer.segments, chars, answer.text)
    calls = {i: number for number, i in enumerate(i for i, s in enumerate(answer.segments) if s.kind == "call")}
    pieces: list[Piece] = []
    for owner, tokens in groupby(range(len(ids)), key=lambda i: owners[i]):
        chosen = list(tokens)
        part = tuple(ids[i] for i in chosen)
        segment = answer.segments[owner] if owner >= 0 else None
        if segment is None or segment.kind == "markup":
            pieces.append(Piece("scaffold", part))
        elif segment.kind == "call":
            pieces.append(Piece("call", part, call=calls[owner]))
        elif segment.kind == "reasoning":
            pieces.append(Piece("reasoning", part))
        else:
            pieces.append(Piece("content", part, tuple(_placed(segment, chars[i]) for i in chosen)))
    return pieces


def char_intervals(tokenizer: Tokenizer, ids: list[int], text: str) -> list[Interval]:
    """Return the characters of `text` that each token stands for."""
    for special in (False, True):
        again, chars = tokenizer.encode(text, special=special)
        if again == ids:
            return chars
    # The model's tokens differ from the tokenizer's for the same text, so there are no offsets: see how the text grows
    # with each token. U+FFFD stands for a character of which some bytes are still to come.
    ends = [len(tokenizer.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _owners(segments: Sequence[Segment], chars: Sequence[Interval], text: str) -> list[int]:
    """Return the index of the segment that each token belongs to; -1 where there is none."""
    found, first = [], 0
    for begin, end in chars:
        start = min(skip(text, begin), end)
        start = begin if start == end else start
        while first + 1 < len(segments) and segments[first].end <= start:
            first += 1
        owner = first if segments else -1
        while owner + 1 < len(segments) and segments[owner].kind == "markup" and segments[owner].end < end:
            owner += 1
        found.append(owner)
    return found


def _placed(segment: Segment, chars: Interval) -> Interval:
    """Return characters of the text as characters of the message's content."""
    start, end = max(chars[0], segment.start), min(chars[1], segment.end)
    first = segment.place - segment.start
    return first + start, first + max(start, end)
