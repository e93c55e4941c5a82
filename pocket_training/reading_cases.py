"""Questions over real text that was kept from the training: stories of bAbI, paragraphs of SQuAD and NQ."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from kv_memory.synthetic.facts import UNKNOWN
from pocket_training.corpus import BABI, Document, RealText
from pocket_training.dialogue import REPLIES, Dialogue
from pocket_training.evaluate import Case


def reading_cases(kept: RealText, each: int, seed: int = 0) -> list[Case]:
    """Return up to `each` cases of each group: "babi <task>", "squad", "squad unanswerable", "nq"."""
    return [*story_cases(kept, each, seed), *document_cases(kept, each, seed)]


def story_cases(kept: RealText, each: int, seed: int = 0) -> list[Case]:
    """Return cases of a story up to one of its questions, without the questions before; up to `each` of every task."""
    rng = Random(seed)
    cases: list[Case] = []
    for task in BABI:
        places = [
            (lines, place)
            for number, text in kept.stories
            if number == task
            for lines in [text.split("\n")]
            for place, line in enumerate(lines)
            if "\t" in line
        ]
        for lines, place in rng.sample(places, min(each, len(places))):
            question, answer, _ = lines[place].split("\t")
            talk = Dialogue(rng)
            _tell(talk, [line for line in lines[:place] if "\t" not in line])
            cases.append(_case(f"babi {task}", talk, question.strip(), answer))
    return cases


def document_cases(kept: RealText, each: int, seed: int = 0) -> list[Case]:
    """Return cases of a paragraph, mostly among others, and a question about it; up to `each` of every group."""
    rng = Random(seed)
    found: dict[str, list[tuple[Document, str, str]]] = {}
    for document in kept.documents:
        for question, answer in document.questions:
            group = document.source + (" unanswerable" if answer == UNKNOWN else "")
            found.setdefault(group, []).append((document, question, answer))
    cases: list[Case] = []
    for group, items in found.items():
        for document, question, answer in rng.sample(items, min(each, len(items))):
            talk = Dialogue(rng)
            others = rng.choices(kept.documents, k=rng.randint(0, 3))
            _show(talk, document, {other.title: other for other in others if other.title != document.title})
            cases.append(_case(group, talk, question, answer))
    return cases


def _case(group: str, talk: Dialogue, question: str, answer: str) -> Case:
    return Case(group, talk.messages, None, question, answer)


def _tell(talk: Dialogue, lines: Sequence[str]) -> None:
    """Add the lines in one message of the user or of a tool, or each in its own."""
    rng = talk.rng
    by_user, replies = rng.random() < 0.5, rng.random() < 0.5
    for content in lines if rng.random() < 0.4 else ["\n".join(lines)]:
        if not by_user:
            talk.call("read_story", [({}, content)])
        else:
            talk.say("user", content)
            if replies:
                talk.say("assistant", rng.choice(REPLIES))


def _show(talk: Dialogue, document: Document, others: dict[str, Document]) -> None:
    """Add the paragraph at some place among others: numbered in one text, or a page each."""
    rng = talk.rng
    shown = [document, *others.values()]
    rng.shuffle(shown)
    parts = [f"Document {number}: {item.title}\n{item.text}" for number, item in enumerate(shown, 1)]
    draw = rng.random()
    if draw < 0.35:
        talk.say("user", "\n\n".join(parts) if others else document.text)
    elif draw < 0.7:
        talk.call("search", [({}, "\n\n".join(parts))])
    else:
        for item in shown:
            talk.call("read_page", [({"title": item.title}, item.text)])
