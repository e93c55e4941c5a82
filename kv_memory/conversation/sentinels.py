"""Sentinels: short texts that stand for contents while a chat template is rendered.

A sentinel is `kvm<nonce>n<number>"z`. Its quote comes out of `tojson` escaped, which shows that the real text has to be
escaped too. It cannot be forged, since the nonce is drawn at random.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

SentinelKind = Literal["content", "string", "tool"]


@dataclass(frozen=True)
class Sentinel:
    """The text that a sentinel stands for, and where it comes from."""

    kind: SentinelKind
    owner: int
    """Index of the message; -1 for the descriptions of tools."""
    text: str
    call: int | None = None
    escapes: int = 0
    """Number of times that the template JSON-escaped the sentinel."""

    @property
    def written(self) -> str:
        """Return the text as the template would have written it."""
        text = self.text
        for _ in range(self.escapes):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


@dataclass(frozen=True)
class OwnerRun:
    """Sentinels of one message, with nothing of another one between them: from the first on to the end of the last."""

    owner: int
    """Index of the message."""
    start: int
    end: int


class Sentinels:
    """All sentinels of one rendering."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._sentinels: list[Sentinel] = []
        self._pattern = re.compile(rf'kvm{nonce}n(\d+)(\\*)"z')

    def add(self, kind: SentinelKind, owner: int, text: str, call: int | None = None) -> str:
        """Register a text and return the sentinel that stands for it."""
        self._sentinels.append(Sentinel(kind, owner, text, call))
        return f'kvm{self._nonce}n{len(self._sentinels) - 1}"z'

    def split(self, text: str) -> Iterator[tuple[str, Sentinel | None]]:
        """Split rendered text into pairs (literal, the sentinel after it); the last literal has none."""
        at = 0
        for match in self._pattern.finditer(text):
            # one level of escaping turns " into \", two into \\\": 2^n - 1 backslashes
            yield text[at : match.start()], replace(self._sentinels[int(match[1])], escapes=len(match[2]).bit_length())
            at = match.end()
        yield text[at:], None

    def runs(self, text: str) -> list[OwnerRun]:
        """Return, in the order of rendered text, where sentinels of one message stand together."""
        found: list[OwnerRun] = []
        for match in self._pattern.finditer(text):
            owner = self._sentinels[int(match[1])].owner
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
