"""Small talk as filler: pairs of messages that say nothing about what is asked, and how many tokens they take."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.evaluation.cases import Transcript
from kv_memory.synthetic.fillers import TALK

_PAIRS = tuple((asked, reply) for asked, reply in TALK if "{" not in asked + reply)


class SmallTalk:
    """Pairs of messages with their number of tokens, with what the model's template writes around them."""

    def __init__(self, form: ChatFormat) -> None:
        self._sizes = {pair: _size(form, *pair) for pair in _PAIRS}

    def drawn(self, rng: Random, *tokens: int) -> list[list[dict[str, Any]]]:
        """Return stretches of talk of at least these numbers of tokens, each by less than one pair longer; no pair
        comes twice."""
        pairs = iter(rng.sample(_PAIRS, len(_PAIRS)))
        return [self._stretch(pairs, wanted) for wanted in tokens]

    def _stretch(self, pairs: Iterator[tuple[str, str]], tokens: int) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while tokens > 0:
            pair = next(pairs)
            messages += turn(*pair)
            tokens -= self._sizes[pair]
        return messages


def turn(asked: str, reply: str, **more: str) -> list[dict[str, Any]]:
    """Return a message of the user, with further fields, and the assistant's reply."""
    return [{"role": "user", "content": asked, **more}, {"role": "assistant", "content": reply}]


def _size(form: ChatFormat, asked: str, reply: str) -> int:
    pair = turn(asked, reply)
    return len(Transcript(form, pair * 2).ids) - len(Transcript(form, pair).ids)
