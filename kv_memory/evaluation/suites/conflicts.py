"""Questions with a document that gives a wrong answer, from four data sets.

RAMDocs and ConflictNQ come with such documents. For 2WikiMultiHopQA and Natural Questions one is made of the document
that has the answer: another record's answer of the same kind (a date, a person, a place, ...) takes its place.
Records are left out where the answer is yes or no, is in the question, is not in the documents, or is part of the wrong
one or the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from kv_memory.evaluation.cases import says
from kv_memory.evaluation.suites.source import Source

LONGEST_ANSWER = 8
"""Largest number of words of a right or a wrong answer."""
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_SHAPES = {
    "date": rf"(?=.*\d).*\b({_MONTHS})\b.*",
    "year": r"\d{4}",
    "number": r"\d[\d,.]*( (million|billion|percent|%))?",
    "nationality": r"[A-Z]\w*(ian|ican|ish|ese)|Dutch|French|German|Greek|Korean",
}
"""Kinds of answers that are known by their form."""
_QUESTIONS = {
    "country": r"\b(which|what) country\b",
    "school": r"\b(graduate|study|studied|educated|school|college|university)\b",
    "place": r"^where\b|\bplace of (birth|death|burial)\b|\b(which|what) (city|town|state)\b",
    "person": r"^who('s|se)?\b",
    "cause": r"\bcause of death\b|^why did\b",
}
"""Kinds of answers that are known by the question: the first that fits."""


@dataclass(frozen=True)
class Conflict:
    """A question, documents that answer it, and one that gives a wrong answer."""

    question: str
    topic: str
    """Words by which somebody who does not know the question yet searches for the documents."""
    answer: str
    aliases: tuple[str, ...]
    wrong: str
    harmful: str
    """Document that gives the wrong answer."""
    documents: tuple[str, ...]
    """All others that belong to the question."""

    @property
    def right(self) -> tuple[str, ...]:
        """Return all right answers."""
        return self.answer, *self.aliases

    @property
    def usable(self) -> bool:
        """Return whether the documents alone decide which answer is given, and whether right and wrong can be told
        apart."""
        answers = (*self.right, self.wrong)
        return (
            self.answer.casefold() not in ("yes", "no")
            and max(len(answer.split()) for answer in (self.answer, self.wrong)) <= LONGEST_ANSWER
            and not any(says(self.wrong, (answer,)) or says(answer, (self.wrong,)) for answer in self.right)
            and not says(f"{self.question} {self.topic}", answers)
            and says(self.harmful, (self.wrong,))
            and not says(self.harmful, self.right)
            and any(says(document, self.right) for document in self.documents)
            and not any(says(document, (self.wrong,)) for document in self.documents)
        )


def _ramdocs(source: Source) -> Iterator[Conflict]:
    for record in source.records("ramdocs_dev.jsonl", "RAMDocs"):
        harmful = next((d for d in record["documents"] if d["type"] == "misinfo"), None)
        if harmful is not None:
            others = [d["text"] for d in record["documents"] if d["type"] != "misinfo"]
            answer, *aliases = record["gold_answers"]
            yield Conflict(
                question=_sentence(record["question"]),
                topic=record["disambig_entity"][0],
                answer=answer,
                aliases=tuple(aliases),
                wrong=harmful["answer"],
                harmful=harmful["text"],
                documents=tuple(text for text in others if not says(text, (harmful["answer"],))),
            )


def _multi_hop(source: Source) -> Iterator[Conflict]:
    records = source.records("multihop_2wiki.jsonl", "2WikiMultiHopQA")
    others = _by_kind((record["question"], record["answer"]) for record in records)
    for record in records:
        titled = [(p["is_supporting"], p["title"], _titled(p["title"], p["text"])) for p in record["paragraphs"]]
        supporting = [text for supports, _, text in titled if supports]
        told = next((text for text in supporting if says(text, (record["answer"],))), None)
        if told is not None:
            right = (record["answer"], *record["aliases"])
            topics = [title for supports, title, _ in titled if supports and not says(title, right)]
            yield from _spoiled(
                source.rng("multi-hop", record["id"]),
                others,
                question=_sentence(record["question"]),
                topic=" and ".join(topics),
                right=right,
                told=told,
                documents=tuple(text for _, _, text in titled),
            )


def _nq(source: Source) -> Iterator[Conflict]:
    records = source.records("nq_open_oracle.jsonl", "Natural Questions with their passages, of lost-in-the-middle")
    others = _by_kind((record["question"], record["answers"][0]) for record in records)
    for record in records:
        passage = next((p for p in record["ctxs"] if p["isgold"]), None)
        if passage is not None:
            told = _titled(passage["title"], passage["text"])
            yield from _spoiled(
                source.rng("nq", record["question"]),
                others,
                question=_sentence(record["question"]),
                topic=passage["title"],
                right=tuple(record["answers"]),
                told=told,
                documents=(told,),
            )


def _conflict_nq(source: Source) -> Iterator[Conflict]:
    for record in source.records("conflict_nq_val.jsonl", "ConflictNQ"):
        yield Conflict(
            question=_sentence(record["cleaned_question"]),
            topic=record["real_passages"][0]["summary"],
            answer=record["real_short_answer"],
            aliases=(),
            wrong=record["fake_short_answer"],
            harmful="\n".join(passage["passage"] for passage in record["fake_passages"]),
            documents=tuple(passage["passage"] for passage in record["real_passages"]),
        )


KINDS: Mapping[str, Callable[[Source], Iterator[Conflict]]] = {
    "ramdocs": _ramdocs,
    "multi-hop": _multi_hop,
    "nq": _nq,
    "conflict-nq": _conflict_nq,
}
"""Readers of the data sets, by the name of the kind. They yield what is in a file, usable or not, and raise
KVMemoryError where it is not there."""


def kind_of(question: str, answer: str) -> str | None:
    """Return the kind of an answer, such as "date" or "person"; None where it is not clear."""
    shape = next((kind for kind, form in _SHAPES.items() if re.fullmatch(form, answer)), None)
    if shape is not None or not answer[:1].isupper():
        return shape
    asked = question.casefold()
    return next((kind for kind, words in _QUESTIONS.items() if re.search(words, asked)), None)


def _by_kind(answered: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for question, answer in answered:
        kind = kind_of(question, answer)
        if kind is not None:
            found.setdefault(kind, []).append(answer)
    return found


def _spoiled(
    rng: Random,
    others: Mapping[str, Sequence[str]],
    *,
    question: str,
    topic: str,
    right: tuple[str, ...],
    told: str,
    documents: tuple[str, ...],
) -> Iterator[Conflict]:
    """Yield the conflict of a question whose answer `told` gives and a version of `told` with another's answer, if
    one can be made."""
    kind, stated = (
        kind_of(question, right[0]),
        re.compile("|".join(map(_words, sorted(filter(None, right), key=len, reverse=True)))),
    )
    every = others.get(kind or "", ())
    for wrong in rng.sample(every, min(len(every), 20)):
        harmful = wrong.join(stated.split(told))
        found = Conflict(question, topic, right[0], right[1:], wrong, harmful, documents)
        if found.usable:
            yield found
            return


def _words(answer: str) -> str:
    """Return the pattern of an answer in whole words."""
    return rf"(?<!\w){re.escape(answer)}(?!\w)"


def _titled(title: str, text: str) -> str:
    return f"{title}\n{text}"


def _sentence(question: str) -> str:
    return f"{question[:1].upper()}{question[1:].rstrip(' ?')}?"
