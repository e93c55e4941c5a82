"""Which tokens of an answer are a call's where tokens do not end where calls do."""

from __future__ import annotations

from typing import Any, cast

from kv_memory.conversation.answer_pieces import pieces_of
from kv_memory.engines.base import Tokenizer
from tests.tool_calls.answers import TOOLS, read

TOKENS = [
    *("Hi.\n", "\n<tool_call>\n", '{"name": "a"', "}</tool_call>\n<tool_call>"),
    *('{"name": "b"}', "</tool_call>", "\n", " Bye", "."),
]
LISTED = ['[TOOL_CALLS] [{"na', 'me": "a"}, {', '"name": "b"}', "]"]


class Words:
    """A tokenizer of which the ids are the places in a list of texts."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def encode(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        ends = [len("".join(self._texts[: i + 1])) for i in range(len(self._texts))]
        return list(range(len(ends))), list(zip([0, *ends[:-1]], ends, strict=True))


def pieces(texts: list[str]) -> list[tuple[Any, ...]]:
    answer, _ = read(["".join(texts)], tools=TOOLS)
    found = pieces_of(cast(Tokenizer, Words(texts)), range(len(texts)), answer)
    return [(piece.kind, piece.ids, piece.call, piece.chars) for piece in found]


def test_a_token_belongs_to_the_first_that_is_more_than_a_marker() -> None:
    assert pieces(TOKENS) == [
        ("content", (0,), None, ((0, 3),)),
        ("call", (1, 2, 3), 0, None),
        ("call", (4, 5, 6), 1, None),
        ("content", (7, 8), None, ((4, 7), (7, 8))),
    ]
    assert pieces(LISTED) == [("call", (0, 1), 0, None), ("call", (2,), 1, None), ("scaffold", (3,), None, None)]
