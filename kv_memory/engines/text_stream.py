"""Incremental decoding: ids to text as it becomes final, whole characters only, and nothing that may still become a
stop string.

At the end it also says which of the tokens make up the text that was given out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Character that a decoder writes where the bytes of a character are not all there yet."""

LONGEST_CHARACTER = 4
"""Most tokens that a UTF-8 character can be spread over; with more, the bytes are wrong, not incomplete."""


class TextStream:
    """Decoder of one generation. Call `push` for each token, then `flush`; `kept` and `remainder` describe the
    outcome."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self._text = ""
        self._given = 0
        """Number of characters of `_text` that were returned."""
        self._ends: list[tuple[int, int]] = [(0, 0)]
        """(tokens, characters) at each boundary of both a token and a character."""
        self.stopped = False
        """Whether a stop string came; the text ends before it."""

    def push(self, token: int) -> str:
        """Add a token and return the text that became final with it."""
        self._ids.append(token)
        piece = self._new_piece()
        if piece is None:
            return ""
        self._text += piece
        self._ends.append((len(self._ids), len(self._text)))
        found = [at for at in (self._text.find(stop, self._given) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
            return self.flush()
        return self._give(len(self._text) - self._held_back())

    def flush(self) -> str:
        """Return the text held back, when no more tokens come. Bytes of an incomplete character are left out, and
        so is a U+FFFD at the very end: decoders write the same for both."""
        return self._give(len(self._text))

    @property
    def kept(self) -> int:
        """Return the number of tokens, from the first on, that are wholly within the text."""
        return max(tokens for tokens, characters in self._ends if characters <= len(self._text))

    @property
    def remainder(self) -> str:
        """Return the end of the text that is not made of whole tokens: what came before a stop string within a
        token."""
        return self._text[max(characters for _, characters in self._ends if characters <= len(self._text)) :]

    def _new_piece(self) -> str | None:
        """Decode the tokens since the last boundary; None while the last character is incomplete.

        NOTE: they are decoded together with the token before the boundary, since some decoders treat the first token of
        a text in another way (SentencePiece strips its leading space).
        """
        boundary = self._ends[-1][0]
        before = max(boundary - 1, 0)
        text = self._decode(self._ids[before:])
        if text.endswith(INCOMPLETE) and len(self._ids) - boundary < LONGEST_CHARACTER:
            return None
        return text[len(self._decode(self._ids[before:boundary])) :]

    def _held_back(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        pending = self._text[self._given :]
        longest = max((len(stop) for stop in self._stop), default=0)
        for length in range(min(longest - 1, len(pending)), 0, -1):
            if any(stop.startswith(pending[-length:]) for stop in self._stop):
                return length
        return 0

    def _give(self, end: int) -> str:
        given, self._given = self._text[self._given : end], end
        return given
