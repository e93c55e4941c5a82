"""Questions after reading documents one of which gives a wrong answer: the document is erased, then the user asks.

Each case is a conversation of an agent that searches: the user names a topic, the assistant opens the results, one call
and one result each, says that it has read them, and only then is asked. Kinds, in turns:

- `ramdocs`: RAMDocs. A document with misinformation among correct ones and noise.
- `multi-hop`: 2WikiMultiHopQA. The paragraphs of a question over several, and a version of the one that has the answer
  with another record's answer in its place.
- `nq`: Natural Questions. The passage that has the answer, and a version of it made in the same way.
- `conflict-nq`: ConflictNQ. A real passage, and an invented article that contradicts it.

Documents of other records fill the context up to 1,000 to 3,000 tokens. In half of the cases the wrong document is read
first (`place` "first"), in the others later, always with at least 300 tokens of other documents after it. The question
wants a few words, and an answer in a sentence counts. The correction names the result by its call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from kv_memory.conversation.messages import Cuts, Message
from kv_memory.evaluation.cases import Case, Transcript, says
from kv_memory.evaluation.suites.conflicts import KINDS, Conflict
from kv_memory.evaluation.suites.source import Source, in_turns

SUITE = "documents"
SIZES = (900, 1400, 1900, 2400)
"""Tokens of the documents beside the wrong one, at least; one is drawn for each case."""
AFTER = 300
"""Tokens of other documents after the wrong one, at least."""
SYSTEM = "You are a helpful assistant. You read documents and answer questions about them."
ASKED_FOR = "Few words are enough: answer with the name, date or number alone."
_TOOL = {
    "type": "function",
    "function": {
        "name": "open_result",
        "description": "Open a result of the search for the user's topic and return its text.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


def documents(source: Source) -> Iterator[Case]:
    """Yield a case for each usable record. Raises KVMemoryError where a file is missing."""
    read = {kind: list(records(source)) for kind, records in KINDS.items()}
    return in_turns(*(_cases(source, kind, found) for kind, found in read.items()))


def _cases(source: Source, kind: str, found: Sequence[Conflict]) -> Iterator[Case]:
    found = [conflict for conflict in found if source.holds(_hash(conflict))]
    pool = list(dict.fromkeys(text for conflict in found for text in conflict.documents))
    first = source.rng(SUITE, kind).random() < 0.5
    seen: set[str] = set()
    for conflict in found:
        if conflict.question not in seen and conflict.usable:
            seen.add(conflict.question)
            case = _case(source, kind, conflict, pool, first)
            if source.fits(case):
                yield case
                first = not first


def _hash(conflict: Conflict) -> str:
    return hashlib.sha256(conflict.question.encode()).hexdigest()[:12]


def _case(source: Source, kind: str, conflict: Conflict, pool: Sequence[str], first: bool) -> Case:
    name = f"{kind}/{_hash(conflict)}"
    rng = source.rng(SUITE, name)
    texts = list(dict.fromkeys(conflict.documents))
    lengths = {text: _length(source, text) for text in texts}
    size = rng.choice(SIZES)
    for text in rng.sample(pool, len(pool)):
        if sum(lengths.values()) >= size:
            break
        if text not in lengths and not says(text, (*conflict.right, conflict.wrong)):
            texts.append(text)
            lengths[text] = _length(source, text)
    rng.shuffle(texts)
    later = [i for i in range(1, len(texts)) if sum(lengths[text] for text in texts[i:]) >= AFTER]
    place = 0 if first or not later else rng.choice(later)
    read = Transcript(
        source.form, _messages(conflict.topic, [*texts[:place], conflict.harmful, *texts[place:]]), [_TOOL]
    )
    return read.question(
        kind,
        [_call(place)],
        f"{conflict.question} {ASKED_FOR}",
        named=f"the result of {_call(place)}",
        answer=conflict.answer,
        aliases=conflict.aliases,
        wrong=(conflict.wrong,),
        suite=SUITE,
        name=name,
        conversation=_hash(conflict),
        groups={"kind": kind, "place": "later" if place else "first"},
    )


def _messages(topic: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    calls = [
        {"id": _call(i), "type": "function", "function": {"name": "open_result", "arguments": {"number": i + 1}}}
        for i in range(len(texts))
    ]
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Search for {topic} and read all results. I will ask about them afterwards."},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "tool_call_id": _call(i), "content": text} for i, text in enumerate(texts)),
        {"role": "assistant", "content": "I have read all results. What is your question?"},
    ]


def _call(place: int) -> str:
    return f"call_{place + 1}"


def _length(source: Source, text: str) -> int:
    return source.form.tokens_in(Message("tool", text), Cuts(((0, len(text)),)))
