"""Stage 2 on suites: an example has the context, span and queries of its cases; the split is training's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.evaluation.suites.source import Source
from kv_memory.testing.chat import tiny_tokenizer
from kv_memory.training.batch import Example, Query
from kv_memory.training.corpus import TextExamples
from kv_memory.training.plan import Batches, Plan
from kv_memory.training.queries import LONGEST, query_of
from kv_memory.training.suites import SuiteExamples, examples_of
from kv_memory.training.tasks import WorldExamples
from tests.training.test_trainer import WORDS

TOKENIZER = HFTokenizer(tiny_tokenizer())
FORM = ChatFormat(TOKENIZER)
READ = Transcript(
    FORM,
    [
        {"role": "user", "id": "old", "content": "the colour is red"},
        {"role": "user", "id": "older", "content": "it was green"},
        {"role": "user", "id": "new", "content": "the colour is blue"},
        {"role": "assistant", "content": "noted"},
    ],
)
ASKED = READ.question("stale", ["old"], "Which colour?", answer="blue")


def text(ids: tuple[int, ...]) -> str:
    return TOKENIZER.decode(list(ids))


def examples(*cases: Case) -> list[Example]:
    return list(examples_of(FORM, cases))


def test_an_example_has_the_parts_of_its_case() -> None:
    (example,) = examples(ASKED)
    assert text(example.span) == "the colour is red"
    assert example.prefix + example.span + example.suffix == ASKED.ids
    (query,) = example.queries
    assert query.ids[: len(ASKED.tail)] == ASKED.tail and query.kind == "stale"
    said = [i for i, weight in zip(query.ids[1:], query.weights, strict=False) if weight == 1]
    assert TOKENIZER.decode(said) == "blue" and {said[-1]} == TOKENIZER.eos_ids and query.weights[-1] == 0
    assert len(query.weights) == len(query.ids) and 0 < query.weights[0] < 1


def test_scored_tokens_are_the_query_where_a_case_has_them() -> None:
    case = replace(ASKED, scored=(5, 6, 7))
    assert query_of(FORM, case).ids == (*case.tail, 5, 6, 7)
    assert query_of(FORM, case).weights[-4:] == (1, 1, 1, 0)
    alone = replace(case, tail=(), answer=None)
    assert query_of(FORM, alone) == Query((5, 6, 7), (1, 1, 0), "stale")
    assert len(query_of(FORM, replace(alone, scored=tuple(range(500)))).ids) == LONGEST


def test_cases_of_one_context_are_queries_of_one_example() -> None:
    again = READ.neighbourhood("again", ["old"])
    other = READ.neighbourhood("again", ["older"])
    first, second = examples(ASKED, again, other)
    assert [query.kind for query in first.queries] == ["stale", "again"] and len(second.queries) == 1


def test_of_several_spans_each_is_erased_without_the_others() -> None:
    case = READ.question("stale", ["old", "older"], "Which colour?", answer="blue")
    first, second = examples(case)
    assert (text(first.span), text(second.span)) == ("the colour is red", "it was green")
    for example in (first, second):
        assert [*example.prefix, *example.suffix] == case.kept


def test_a_case_without_known_tokens_and_a_span_at_the_start_are_left_out() -> None:
    assert not examples(replace(ASKED, answer=None))
    assert not examples(replace(ASKED, spans=((0, 3),)))
    assert not examples(replace(ASKED, spans=((3, len(ASKED.ids)),)))


def made(length: int) -> Example:
    return Example((1,) * (length - 2), (2,), (3,), (Query((4, 5), (1.0, 0.0)),))


def test_examples_are_drawn_by_suite_and_length() -> None:
    source = SuiteExamples({"many": [made(n) for n in (900, 300, 10)] * 50, "one": [made(280)]})
    drawn = [source.draw(Random(seed), 400) for seed in range(60)]
    lengths = [len(e.prefix) + 2 for e in drawn]
    assert set(lengths) == {280, 300} and 15 < lengths.count(280) < 45
    assert {len(source.draw(Random(seed), 50).prefix) + 2 for seed in range(20)} == {10, 280}
    with pytest.raises(KVMemoryError, match="'none' has no conversation"):
        SuiteExamples({"none": []})


def test_only_conversations_for_training_are_read(tmp_path: Path) -> None:
    with pytest.raises(KVMemoryError, match="for training alone"):
        SuiteExamples.read(["documents"], Source(FORM, data=tmp_path))
    with pytest.raises(KVMemoryError, match="no suite 'poems'; choose one of documents"):
        SuiteExamples.read(["poems"], Source(FORM, data=tmp_path, split="train"))
    with pytest.raises(KVMemoryError, match="ramdocs_dev"):
        SuiteExamples.read(["documents"], Source(FORM, data=tmp_path, split="train"))


def test_batches_have_their_share_of_suites() -> None:
    plan = Plan.of(
        text_steps=10, task_steps=300, lengths=(320,), tokens=320, text_share=0.0, suites=("x",), suite_share=0.7
    )
    kinds = [plan.is_suite(step) for step in range(plan.steps)]
    assert not any(kinds[:10]) and 0.6 < sum(kinds[10:]) / 300 < 0.8
    suites = SuiteExamples({"x": [made(300)]})
    batches = Batches(plan, TextExamples(TOKENIZER, [WORDS]), WorldExamples(FORM), suites=suites)
    for step in (kinds.index(True), kinds.index(False, 10)):
        assert (batches[step].kinds[0] == ("text",)) is kinds[step]
    assert not any(map(plan.model_copy(update={"suites": ()}).is_suite, range(plan.steps)))
