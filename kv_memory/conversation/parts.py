"""Parts of a conversation as the template writes it: stretches of text, before they are tokenized."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kv_memory.conversation.sentinels import Sentinel

MOST_BEFORE = 48
"""Characters of the text before a part that are remembered: enough for a special token."""
PieceKind = Literal["scaffold", "content", "call", "reasoning", "lead"]
"""Kind of the text. "lead" is the space before a content where it is a token of its own."""


@dataclass(frozen=True)
class Part:
    """A stretch of the rendered text of one message, before it is tokenized."""

    kind: PieceKind
    text: str
    """The text as the template wrote it."""
    call: int | None = None
    trusted: bool = False
    """Whether the template's author wrote it, so that structure tokens in it are meant."""
    start: int = 0
    """First character of the message's content; 0 unless `kind` is "content"."""
    within: tuple[tuple[str, bool], ...] = ()
    """Stretches of the text of a call, each with whether the template's author wrote it."""
    after: str = "\n"
    """End of the scaffolding before it; empty at the beginning, a line break after a content."""
    lead: str = ""
    """Space of the scaffolding before it, which is tokenized with it, as the template's text would be."""


def joined(stretches: Iterable[tuple[int, list[Part]]]) -> list[tuple[int, list[Part]]]:
    """Return the parts, each with what is before it.

    A space before a text is tokenized with it, since " word" is one token in many vocabularies.
    """
    found: list[tuple[int, list[Part]]] = []
    before = ""
    for owner, parts in stretches:
        own: list[Part] = []
        for given in parts:
            part, last = given, own[-1] if own else None
            spaced = last is not None and last.trusted and last.kind == "scaffold" and last.text.endswith(" ")
            if last is not None and spaced and not part.trusted and part.text[:1].strip():
                own[-1] = replace(last, text=last.text[:-1])
                part = replace(part, lead=" ")
                before = own[-1].text[-MOST_BEFORE:] or own[-1].after
            own.append(replace(part, after=before))
            if part.text:  # no content ends in a special token
                authored = part.within[-1:] if part.kind == "call" else [(part.text, part.trusted)]
                before = part.text[-MOST_BEFORE:] if part.kind != "content" and authored[0][1] else "\n"
        found.append((owner, own))
    return found


def places_of(content: str, written: str, start: int) -> Sequence[int]:
    """Return, for each character that the template wrote of a content and for the end, the content's character.

    The template may have stripped it, or escaped it for JSON or HTML; `start` is where in the content it begins.
    """
    at = content.find(written, start)
    if at >= 0:
        return range(at, at + len(written) + 1)
    for escape in (_json, lambda c: _json(_json(c)), _html):
        escaped = [escape(c) for c in content]
        at = "".join(escaped).find(written)
        if at >= 0:
            places = [i for i, c in enumerate(escaped) for _ in c]
            return [*places[at : at + len(written)], places[at + len(written) - 1] + 1 if written else start]
    return [min(start + i, len(content)) for i in range(len(written) + 1)]


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _html(text: str) -> str:
    return Sentinel("content", 0, text, in_html=True).written
