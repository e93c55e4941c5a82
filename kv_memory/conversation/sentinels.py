"""Sentinels: short texts that stand for contents while a chat template is rendered.

A sentinel is `kvm<nonce>n<number>"z`. Its quote comes out of `tojson` and of HTML escaping changed, which shows that
the real text has to be escaped too. Before the `z` come those parts of the text that templates look for, such as < and
& that they wrap in CDATA. Numbers have a fixed width, so that they sort in their order. A number, a boolean
or nothing in the arguments of a call has an integer for a sentinel, so that templates which ask for the type go the
same way. Neither can be forged, since the nonce is random.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

_ANCHOR = 16
"""Characters at the end of a text by which it is found again."""
_SEEN = ("<", ">", "&", "/no_think", "/think")
"""Parts of a text that templates look for: a sentinel has those of its text."""
SentinelKind = Literal["content", "reasoning", "string", "value", "tool"]


@dataclass(frozen=True)
class Sentinel:
    """The text that a sentinel stands for, and where it comes from."""

    kind: SentinelKind
    owner: int
    """Index of the message; -1 for the descriptions of tools."""
    text: str
    call: int | None = None
    start: int = 0
    """First character of the text in the message's content; 0 unless `kind` is "content"."""
    escapes: int = 0
    """Number of times that the template JSON-escaped the sentinel."""
    in_html: bool = False
    """Whether the template escaped it for HTML."""
    number: int = -1

    @property
    def written(self) -> str:
        """Return the text as the template would have written it."""
        text = self.text
        for _ in range(self.escapes):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") if self.in_html else text

    @property
    def variants(self) -> list[str]:
        """Return what the template may have written, the likeliest first."""
        if self.kind == "value":
            value = json.loads(self.text)
            return list(dict.fromkeys([self.text, str(value), str(value).lower(), ""]))
        text = self.written
        return list(dict.fromkeys([text, text.strip(), text.rstrip(), text.lstrip(), text.strip("\n")]))


class Plain:
    """Contents as they are, with the interface of `Sentinels`: what the template is to write in the end."""

    def add(self, kind: SentinelKind, owner: int, text: str, call: int | None = None, start: int = 0) -> str:
        """Return the text."""
        return text

    def add_value(self, owner: int, value: Any, call: int) -> Any:
        """Return the value."""
        return value


@dataclass(frozen=True)
class OwnerRun:
    """Sentinels of one message, with nothing of another one between them: from the first on to the end of the last."""

    owner: int
    """Index of the message."""
    start: int
    end: int


class Sentinels:
    """All sentinels of one rendering."""

    def __init__(self, nonce: str, *, keep_blank: bool = False) -> None:
        """Create sentinels with a random part; with `keep_blank` contents that are white space stand for themselves."""
        self._nonce = nonce
        self._keep_blank = keep_blank
        self._digits = f"7{int(nonce, 16):010}"
        self._sentinels: list[Sentinel] = []
        self._pattern = re.compile(rf"""kvm{nonce}n(\d+)(\\*)("|&#34;|&quot;)[^z"]{{0,24}}z|{self._digits}(\d{{5}})""")

    def add(self, kind: SentinelKind, owner: int, text: str, call: int | None = None, start: int = 0) -> str:
        """Register a text and return the sentinel that stands for it."""
        if self._keep_blank and kind == "content" and not text.strip():
            return text
        self._sentinels.append(Sentinel(kind, owner, text, call, start, number=len(self._sentinels)))
        special = "".join(part for part in _SEEN if part in text)
        return f'kvm{self._nonce}n{len(self._sentinels) - 1:05}"{special}z'

    def add_value(self, owner: int, value: Any, call: int) -> Any:
        """Register an argument that is no text, and return the integer that stands for it."""
        self._sentinels.append(Sentinel("value", owner, json.dumps(value), call, number=len(self._sentinels)))
        return int(f"{self._digits}{len(self._sentinels) - 1:05}")

    def split(self, text: str) -> Iterator[tuple[str, Sentinel | None]]:
        """Split rendered text into pairs (literal, the sentinel after it); the last literal has none."""
        at = 0
        for match in self._pattern.finditer(text):
            found = self._sentinels[self._number(match)]
            if match[2] is not None:
                # one level of escaping turns " into \", two into \\\": 2^n - 1 backslashes
                found = replace(found, escapes=len(match[2]).bit_length(), in_html=match[3] != '"')
            yield text[at : match.start()], found
            at = match.end()
        yield text[at:], None

    def written(self, text: str, real: str) -> tuple[list[str], bool]:
        """Return what each sentinel of rendered text stands for in `real`, the same with the contents themselves, and
        whether all of it was found.

        A text that the template treats in another way than its sentinel is taken as it was given, and so are all after
        a place from which on nothing is found.
        """
        found: list[str] = []
        exact = True
        at = 0
        pairs = list(self.split(text))
        for (literal, sentinel), (following, _) in zip(pairs, [*pairs[1:], ("", None)], strict=True):
            exact = exact and real.startswith(literal, at)
            at = _after(real, literal, at)
            if at < 0 or sentinel is None:
                break
            fits = (v for v in sentinel.variants if real.startswith(v, at) and real.startswith(following, at + len(v)))
            chosen = next(fits, None)
            if chosen is None:
                exact = False
                chosen = next((v for v in sentinel.variants if v and real.startswith(v, at)), sentinel.written)
            else:
                at += len(chosen)
            found.append(chosen)
        return found, exact and at == len(real)

    @staticmethod
    def _number(match: re.Match[str]) -> int:
        return int(match[1] if match[1] is not None else match[4])

    def runs(self, text: str) -> list[OwnerRun]:
        """Return the stretches of rendered text that are of one message each, in their order."""
        found: list[OwnerRun] = []
        for match in self._pattern.finditer(text):
            owner = self._sentinels[self._number(match)].owner
            if owner < 0:
                continue
            if found and found[-1].owner == owner:
                found[-1] = replace(found[-1], end=match.end())
            else:
                found.append(OwnerRun(owner, *match.span()))
        return found

    def end(self, text: str) -> int:
        """Return where the last message ends in rendered text, without its scaffolding."""
        runs = self.runs(text)
        return runs[-1].end if runs else 0


def _after(real: str, literal: str, at: int) -> int:
    """Return where a text of the template ends in `real`; if it is another one there, where its end is found; else
    -1."""
    if real.startswith(literal, at):
        return at + len(literal)
    end = literal[-_ANCHOR:]
    place = real.find(end, at)
    return place + len(end) if end and place >= 0 else -1
