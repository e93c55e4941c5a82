"""The split of the suites' conversations: what erasers are trained on is never what figures are reported of."""

from __future__ import annotations

from dataclasses import replace

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.source import TRAINED, Source
from kv_memory.testing.chat import tiny_tokenizer

TEST = Source(ChatFormat(HFTokenizer(tiny_tokenizer())))
TRAIN = replace(TEST, split="train")
NAMES = [f"conversation {number}" for number in range(1000)]


def test_each_conversation_is_in_one_split() -> None:
    assert all(TRAIN.holds(name) is not TEST.holds(name) for name in NAMES)
    assert all(replace(TEST, split=None).holds(name) for name in NAMES)
    assert abs(sum(map(TRAIN.holds, NAMES)) / len(NAMES) - TRAINED) < 0.05


def test_the_name_alone_decides() -> None:
    assert [name for name in NAMES[:12] if TRAIN.holds(name)] == [f"conversation {n}" for n in (4, 9, 10)]
    assert all(replace(TRAIN, seed=7, longest=100).holds(name) is TRAIN.holds(name) for name in NAMES)


def test_a_case_of_the_other_split_does_not_fit() -> None:
    cases = [Case("keep", (1, 2, 3), ((1, 2),), conversation=name) for name in NAMES]
    assert [TEST.fits(case) for case in cases] == [not TRAIN.fits(case) for case in cases]
