"""What the tokens of a case say, read back without the code that wrote them: the tiny tokenizer has a token a byte."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.source import Source
from kv_memory.testing.chat import tiny_tokenizer

TINY = tiny_tokenizer()
FORM = ChatFormat(HFTokenizer(TINY))
_TURN = re.compile(r"<\|im_start\|>(\w+)(?:\n| )?(.*?)<\|im_end\|>\n", re.DOTALL)


def text(ids: Sequence[int]) -> str:
    """The text of tokens, structure tokens included."""
    return str(TINY.decode(list(ids), skip_special_tokens=False))


def turns(ids: Sequence[int]) -> list[tuple[str, str]]:
    """Role and text of each turn."""
    return _TURN.findall(text(ids))


def erased(case: Case) -> str:
    """The text in the spans."""
    return text([i for start, end in case.spans for i in case.ids[start:end]])


def check(cases: Iterable[Case], source: Source, suite: str) -> None:
    """Every case names itself, fits, and has a span with text after it."""
    found = list(cases)
    assert found
    assert len({case.name for case in found}) == len(found)
    for case in found:
        assert case.suite == suite
        assert case.conversation
        assert case.erased
        assert case.following > 0
        assert source.fits(case, answer=0)
