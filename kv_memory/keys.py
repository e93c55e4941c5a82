"""Keyed hashes. Nobody without the key can compute them, so short secrets cannot be guessed from them."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Literal

Value = str | int | float | bytes
Purpose = Literal["text", "part", "id", "row", "head", "log", "key"]


class Key:
    """HMAC-SHA256 with one secret key. A hash covers its purpose too, so that equal texts have other hashes
    elsewhere."""

    def __init__(self, key: bytes | None = None) -> None:
        """Create a key from these bytes, by default from ones that are drawn at random and end with the process."""
        self._key = secrets.token_bytes(32) if key is None else key
        self.id = self.hash("key")[:16]
        """Name of the key, which tells nothing about it."""

    def hash(self, purpose: Purpose, *parts: str) -> str:
        """Return the hash of these texts together: 64 hexadecimal digits."""
        return hmac.new(self._key, json.dumps([purpose, *parts]).encode(), "sha256").hexdigest()

    def seal(self, digest: str) -> str:
        """Return the keyed hash that stands for a message's digest."""
        return self.hash("text", digest)

    def row(self, before: str, row: Mapping[str, Value | None]) -> str:
        """Return the hash of a row's columns together with `before`, the hash of the previous row."""
        held = {name: value for name, value in row.items() if value is not None}  # columns may be added later
        return self.hash("row", before, json.dumps(held, sort_keys=True, default=lambda b: {"bytes": b.hex()}))
