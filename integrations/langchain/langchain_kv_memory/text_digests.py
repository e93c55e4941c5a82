"""Digests of texts, by which a text is known again without being kept."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from typing import NamedTuple


class TextDigest(NamedTuple):
    """A text's length and its digest under the key of the `TextDigests` that made it."""

    length: int
    digest: bytes


class TextDigests:
    """A maker of digests under a random key of its own: nobody without the key can find a short text by trying."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, text: str) -> TextDigest:
        """Return the digest of a text."""
        return TextDigest(len(text), hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256"))

    def longest_in(self, text: str, digests: Iterable[TextDigest]) -> TextDigest | None:
        """Return the digest of the longest of these texts that `text` is or contains; an empty one is in no other."""
        wanted = set(digests)
        for length in sorted({known.length for known in wanted if known.length <= len(text)}, reverse=True):
            for start in range(len(text) - length + 1) if length or not text else ():
                found = self.of(text[start : start + length])
                if found in wanted:
                    return found
        return None
