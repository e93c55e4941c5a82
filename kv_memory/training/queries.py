"""Queries of cases: what the assistant is asked, and what it should say, as tokens whose predictions are compared."""

from __future__ import annotations

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.evaluation.cases import Case
from kv_memory.synthetic.worlds import reply
from kv_memory.training.batch import Query

ASKED = 0.1
"""Weight of the question's own tokens; those of the answer weigh 1."""
LONGEST = 64
"""Largest number of a case's scored tokens in a query."""


def has_query(case: Case) -> bool:
    """Return whether a case says which tokens follow: it has tokens to score or a right answer."""
    return bool(case.scored) or case.answer is not None


def query_of(form: ChatFormat, case: Case) -> Query:
    """Return the query of a case that `has_query`: its tail, then its scored tokens or its right answer."""
    said = answer_ids(form, case.answer or "", case.call) if case.scored is None else case.scored[:LONGEST]
    # The last token of the tail predicts the first one that is said; the last one that is said predicts nothing of it.
    weights = [ASKED] * max(0, len(case.tail) - 1) + [1.0] * (len(said) - (not case.tail)) + [0.0]
    return Query((*case.tail, *said), tuple(weights), case.kind)


def answer_ids(form: ChatFormat, answer: str, call: str | None = None) -> tuple[int, ...]:
    """Return the tokens of the assistant's message with this answer, up to the one that ends it.

    `call`: as in `Case`.
    """
    parsed = [Message("user", "?"), *parse_messages([reply(answer, call)])]
    head = form.generation_prompt(parsed[:-1]).ids
    ids = tuple(i for piece in form.encode(parsed, start=1)[0] for i in piece.ids)
    closing = form.closing(parsed).ids
    ids = ids[len(head) :] if ids[: len(head)] == head else ids
    return ids[: len(ids) - len(closing) + 1]
