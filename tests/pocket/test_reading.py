"""Conversations over real text: what is for evaluation stays out, and answers stand in what was read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE
from kv_memory.synthetic.facts import UNKNOWN
from pocket_training import reading
from pocket_training.corpus import BABI, NQ, SQUAD, RealText
from pocket_training.reading import reading_sample
from pocket_training.reading_cases import reading_cases
from pocket_training.samples import Sample
from pocket_training.stories import PRONOUNS, Asked, Whereabouts, parse

Texts = tuple[RealText, RealText]


@pytest.fixture(scope="module")
def texts(data: Callable[[str], Path]) -> Texts:
    """For training and for evaluation."""
    folder = data(SQUAD).parent
    for name in ("text_childrens_books.txt.gz", NQ, *BABI.values()):
        data(name)
    return RealText.load(folder, limit=500_000), RealText.load(folder, kept=True)


def length(sample: Sample) -> float:
    calls = [call["function"] for message in sample.messages for call in message.get("tool_calls", ())]
    characters = sum(len(call["name"]) + len(call["arguments"]) + 40 for call in calls)
    characters += sum(len(message["content"]) for message in sample.messages)
    return len(sample.messages) * TOKENS_PER_MESSAGE + characters / CHARACTERS_PER_TOKEN


def test_the_split(texts: Texts) -> None:
    train, kept = texts
    assert not {item.text for item in train.documents} & {item.text for item in kept.documents}
    assert not set(train.stories) & set(kept.stories)
    assert not {q for d in train.documents for q, _ in d.questions} & {
        q for d in kept.documents for q, _ in d.questions
    }
    assert kept.books == ""
    for training, evaluation in ((train.documents, kept.documents), (train.stories, kept.stories)):
        assert 0.08 < len(evaluation) / (len(training) + len(evaluation)) < 0.12


def test_answers_of_documents_stand_in_them(texts: Texts) -> None:
    for document in (*texts[0].documents, *texts[1].documents):
        assert all(answer == UNKNOWN or answer in document.text for _, answer in document.questions)


@pytest.mark.parametrize("tokens", [300, 1000, 3000])
@pytest.mark.parametrize("real", [True, False])
def test_samples(texts: Texts, tokens: int, real: bool) -> None:
    text = texts[0] if real else RealText()
    kept = {item.text for item in texts[1].documents}
    lengths, unknown, answers = [], 0, 0
    for seed in range(60):
        sample = reading_sample(Random(seed), tokens, text)
        assert sample == reading_sample(Random(seed), tokens, text)
        lengths.append(length(sample) / tokens)
        read = ""
        for index, message in enumerate(sample.messages):
            content = message["content"]
            if index not in sample.answers:
                read += content + "\n"
                continue
            assert message["role"] == "assistant" and sample.messages[index - 1]["role"] == "user"
            assert content in (UNKNOWN, "yes", "no") or content in read
            answers += 1
            unknown += content == UNKNOWN
        assert not any(document in read for document in kept)
    assert 0.85 < sum(lengths) / len(lengths) < 1.1 and max(lengths) < 1.8
    assert 0.02 < unknown / answers < 0.35


def test_answers_about_real_stories_are_what_the_messages_say(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a message was never read: replayed from the messages alone."""
    real = texts[0].stories
    monkeypatch.setattr(reading, "invent", lambda values, count: parse(real[values.rng.randrange(len(real))][1]))
    asked = 0
    for seed in range(200):
        sample, state = reading_sample(Random(seed), 500, RealText(stories=real)), Whereabouts()
        for index, message in enumerate(sample.messages):
            if index in sample.answers or message["role"] == "system":
                continue
            sentences = re.findall(r"[A-Z][A-Za-z ]+[.?]", message["content"])
            for sentence in sentences:
                if sentence.endswith("?") and index + 1 in sample.answers:
                    question = parse(f"{sentence}\t?\t").steps[0]
                    assert isinstance(question, Asked)
                    assert state.answer(question) == sample.messages[index + 1]["content"]
                    asked += 1
                elif " the " in sentence and sentence.endswith(".") and sentence not in reading.REQUESTS:
                    state.read(parse(sentence).lines[0], PRONOUNS)
    assert asked > 500


def test_messages_are_well_formed(texts: Texts) -> None:
    for seed in range(60):
        open_calls: list[str] = []
        for message in reading_sample(Random(seed), 800, texts[0]).messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == open_calls.pop(0)
            else:
                assert not open_calls
            for call in message.get("tool_calls", ()):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
                open_calls.append(call["id"])
        assert not open_calls


def test_passages_are_whole_sentences(texts: Texts) -> None:
    rng = Random(0)
    passages = [texts[0].passage(rng, 400) for _ in range(300)]
    assert all(passage == passage.strip() and len(passage) <= 400 for passage in passages)
    assert sum(bool(re.search(r"[.!?]\W*$", passage)) for passage in passages) > 200
    assert sum(map(len, passages)) / 300 > 150


def test_cases_are_of_kept_text(texts: Texts) -> None:
    train, kept = texts
    cases = reading_cases(kept, 40)
    assert cases == reading_cases(kept, 40)
    groups = [case.group for case in cases]
    assert {group: groups.count(group) for group in groups} == dict.fromkeys(
        (*(f"babi {task}" for task in BABI), "squad", "squad unanswerable", "nq"), 40
    )
    trained = {item.text for item in train.documents}
    for case in cases:
        read = "\n".join(message["content"] for message in case.messages)
        assert not any(text in read for text in trained)
        assert case.answer in (UNKNOWN, "yes", "no") or case.answer in read
        assert case.group != "squad unanswerable" or case.answer == UNKNOWN
