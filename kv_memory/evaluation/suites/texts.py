"""Cases on a text: spans at random places, without labels, for any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from kv_memory.errors import ConversationError
from kv_memory.evaluation.cases import NEAR, TEXT, Case, again


def text_cases(ids: Sequence[int], head: Sequence[int], span: int, following: int, rng: Random) -> Iterator[Case]:
    """Yield, without end, cases with a span of `span` tokens at a random place of a text. `head`: the start of every
    context.

    Before the span are as many tokens of text as in the span, plus a tenth of `following`, at least `NEAR`. Scored is
    `again`: what really follows seldom depends on the span. Raises ConversationError for a text that is too short.
    """
    before = max(NEAR, span + following // 10)
    length = before + span + following
    if len(ids) < length:
        raise ConversationError(
            f"The text has {len(ids):,} tokens; {length:,} are needed for a span of {span} with {following:,} after "
            "it: give a longer text, or shorter lengths."
        )
    start = len(head) + before

    def case(at: int) -> Case:
        context, where = (*head, *ids[at : at + length]), (start, start + span)
        return Case(TEXT, context, (where,), (), again(context, where))

    return (case(rng.randint(0, len(ids) - length)) for _ in count())


def context_head(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that the model's contexts begin with, if there is one: much attention may rest on it."""
    ids: Any = tokenizer("a")["input_ids"]
    return [ids[0]] if ids and ids[0] == tokenizer.bos_token_id else []
