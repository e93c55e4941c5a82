"""Embeddings that need no weights."""

from __future__ import annotations

import re
import zlib

from langchain_core.embeddings import Embeddings


class HashedWords(Embeddings):
    """Counts of words, each in the place that its checksum says: texts that share words are near each other."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        counts = [0.0] * 256
        for word in re.findall(r"\w+", text.lower()):
            counts[zlib.crc32(word.encode()) % 256] += 1
        return counts
