"""Sentinels: short texts that stand for contents while a chat template is rendered.

A sentinel is `kvm<nonce>n<number>"z`. It survives `tojson` (the quote comes out escaped, which tells that the real
text has to be escaped too) and cannot be forged, since the nonce is drawn at random.
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
    """What a sentinel stands for."""

    kind: SentinelKind
    owner: int
    """Index of the message; -1 for the descriptions of tools."""
    text: str
    call: int | None = None
    escapes: int = 0
    """How many times the template JSON-escaped it."""

    @property
    def written(self) -> str:
        """The text as the template would have written it."""
        text = self.text
        for _ in range(self.escapes):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


class Sentinels:
    """The sentinels of one rendering."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._sentinels: list[Sentinel] = []
        self._pattern = re.compile(rf'kvm{nonce}n(\d+)(\\*)"z')

    def add(self, kind: SentinelKind, owner: int, text: str, call: int | None = None) -> str:
        """Register a text and return the sentinel that stands for it."""
        self._sentinels.append(Sentinel(kind, owner, text, call))
        return f'kvm{self._nonce}n{len(self._sentinels) - 1}"z'

    def split(self, text: str) -> Iterator[tuple[str, Sentinel | None]]:
        """Rendered text as (literal, the sentinel after it); the last literal has none."""
        at = 0
        for match in self._pattern.finditer(text):
            # one level of escaping turns " into \", two into \\\": 2^n - 1 backslashes
            yield text[at : match.start()], replace(self._sentinels[int(match[1])], escapes=len(match[2]).bit_length())
            at = match.end()
        yield text[at:], None

    def extents(self, text: str) -> dict[int, tuple[int, int]]:
        """For each message that has a sentinel in rendered text: from its first to the end of its last."""
        found: dict[int, tuple[int, int]] = {}
        for match in self._pattern.finditer(text):
            owner = self._sentinels[int(match[1])].owner
            found[owner] = (found.get(owner, match.span())[0], match.end())
        return found
