"""The cases of a calibration, which any model has: by default messages of generated conversations, else documents or a
text of one's own.

Questions are scored on never-saw's own greedy answer, of at most `ANSWER` tokens, so that none need be right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from random import Random

from kv_memory.calibration.decide import nearest
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import parse_messages
from kv_memory.engines.base import Engine, Tokenizer
from kv_memory.errors import ContextLengthError, ModelError
from kv_memory.evaluation.bench.summary import CHANGED
from kv_memory.evaluation.calibrate.plan import Plan
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.suites.documents import documents
from kv_memory.evaluation.suites.source import Source
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.evaluation.suites.worlds import world_cases
from kv_memory.evaluation.trial import trial
from kv_memory.synthetic.worlds import make_world

ANSWER = 16
"""Largest number of tokens of an answer that are generated and scored."""
UNTOUCHED = ("keep", "call")
"""Kinds of questions that are left out: their answers seldom depend on what is erased."""
SMALLEST_WORLD = 128
SPARE = 3
"""Cases that are tried for each that is wanted."""
TRIES = 50
"""Conversations that are generated in a row without one that fits, before that is an error."""


def conversation_cases(tokenizer: Tokenizer, following: int, seed: int, longest: int) -> Iterator[Case]:
    """Yield, without end, cases in which a message is erased and exactly `following` tokens come after it.

    Each is of a generated conversation of its own, cut off behind them; later text refers to the message. `longest`:
    number of tokens of a case with what is scored. Raises ContextLengthError where none fits.
    """
    form, used = ChatFormat(tokenizer), Counter[str]()
    tries = 0
    for world_seed in count(seed):
        world = make_world(world_seed, max(SMALLEST_WORLD, following), "test")
        probes = {probe.target: probe for probe in world.probes if probe.kind not in UNTOUCHED}
        cases = [_cut(case, following) for case in world_cases(form, world, list(probes.values()))]
        found = [case for case in cases if case.following == following and _size(case) <= longest]
        if found:
            chosen = min(found, key=lambda case: (used[case.kind], len(case.ids)))
            used[chosen.kind] += 1
            tries = 0
            yield chosen
        elif (tries := tries + 1) == TRIES:
            raise ContextLengthError(
                f"No generated conversation with {following:,} tokens after a message fits in {longest:,}; give "
                "shorter lengths, or a text of your own."
            )


def changed(engine: Engine, cases: Iterator[Case], count: int) -> list[Case]:
    """Return the first `count` cases that the spans change (`CHANGED`), of at most `SPARE` times as many.

    Where there are fewer, those that they change most take the others' places. A ratio of what is left would be one of
    noise where there is nothing to leave.
    """
    found: list[Case] = []
    rest: list[tuple[float, Case]] = []
    for case in islice(cases, SPARE * count):
        with trial(engine, case, ANSWER) as this:
            kl = this.run(None).kl
        if kl >= CHANGED:
            found.append(case)
        else:
            rest.append((kl, case))
        if len(found) == count:
            break
    rest.sort(key=lambda each: -each[0])
    return found + [case for _, case in rest[: count - len(found)]]


def document_cases(tokenizer: Tokenizer, data: Path, lengths: Sequence[int], seed: int, longest: int) -> Iterator[Case]:
    """Yield the cases of the suite `documents`, those of each length after the span in turns.

    `lengths`: which the length of each case is counted to, the nearest one. Raises KVMemoryError where a data set is
    missing.
    """
    waiting: dict[int, list[Case]] = defaultdict(list)
    for case in documents(Source(ChatFormat(tokenizer), seed, longest, data)):
        waiting[nearest(case.following, lengths) or 0].append(case)
        if len(waiting) == len(set(lengths)):
            yield from (cases.pop(0) for cases in waiting.values())
            waiting = defaultdict(list, {length: cases for length, cases in waiting.items() if cases})
    yield from (case for cases in waiting.values() for case in cases)


def tables(engine: Engine, plan: Plan, text: str | None, data: Path | None) -> Iterator[list[Case]]:
    """Yield the cases of a plan by suffix length, and those of a text by span length too."""
    tokenizer, longest = engine.tokenizer, engine.max_positions
    if text is not None:
        ids, head, rng = _encode(tokenizer, text), head_of(tokenizer), Random(plan.seed)
        for following in plan.followings:
            for span in plan.spans:
                yield list(islice(text_cases(ids, head, span, following, rng), plan.cases))
    elif data is not None:
        found: dict[int, list[Case]] = defaultdict(list)
        count = 2 * SPARE * plan.cases * len(plan.followings)
        for case in islice(document_cases(tokenizer, data, plan.followings, plan.seed, longest), count):
            found[nearest(case.following, plan.followings) or 0].append(case)
        lengths = [following for following in plan.followings if found[following]]
        yield from (changed(engine, iter(found[following]), plan.cases) for following in lengths)
    else:
        for following in plan.followings:
            yield changed(engine, conversation_cases(tokenizer, following, plan.seed, longest), plan.cases)


def head_of(tokenizer: Tokenizer) -> list[int]:
    """Return the token that the model's conversations begin with: much attention rests on it. Empty without a chat
    template."""
    try:
        pieces = ChatFormat(tokenizer).encode(parse_messages([{"role": "user", "content": "a"}]), None)[0]
    except ModelError:
        return []
    return [i for piece in pieces for i in piece.ids][:1]


def _cut(case: Case, following: int) -> Case:
    """Return the case without what comes later than `following` tokens after the spans, if they are before that."""
    end = case.spans[0][0] + case.erased + following
    return replace(case, ids=case.ids[:end]) if case.spans[-1][1] <= end else case


def _size(case: Case) -> int:
    return len(case.ids) + len(case.tail) + ANSWER


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, special=False)[0]
