"""An engine's tokenizer as llguidance takes one."""

from __future__ import annotations

from llguidance import LLTokenizer, TokenizerWrapper

from kv_memory import Tokenizer, TokenTable

_BEFORE = "\x02"
"""Character before which a text is tokenized where it changes by itself: SentencePiece puts a space before a text."""


def guidance_tokenizer(tokenizer: Tokenizer, table: TokenTable) -> LLTokenizer:
    """Make llguidance's tokenizer of one of an engine; takes about a second for 150,000 tokens."""
    return LLTokenizer(TokenizerWrapper(_Described(tokenizer, table)), eos_token=sorted(tokenizer.eos_ids))


class _Described:
    """The names under which llguidance looks for a tokenizer's parts."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, table: TokenTable) -> None:
        self._tokenizer = tokenizer
        self._written = table.written
        # NOTE: llguidance marks structure tokens with the byte 0xFF, which is in no text.
        self.tokens = [b"" if text.startswith(b"\xff") else text for text in table.written]
        self.special_token_ids = sorted(table.structure)
        self.eos_token_id = min(tokenizer.eos_ids)

    def __call__(self, data: bytes) -> list[int]:
        """Tokenize a text that has no structure."""
        text = data.decode()
        ids = self._tokenizer.encode(text, special=False)[0]
        if self._bytes(ids) == data:
            return ids
        ids = self._tokenizer.encode(_BEFORE + text, special=False)[0]
        while ids and len(self._bytes(ids)) > len(data):
            del ids[0]
        return ids

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(self._written[id_] for id_ in ids)
