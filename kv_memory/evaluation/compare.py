"""One retraction beside never-saw: the same question before, after, and had the model never seen the span."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from kv_memory.conversation.spans import Span, Target
from kv_memory.errors import ContextLengthError
from kv_memory.evaluation.asked import context_of
from kv_memory.evaluation.metrics import mean_kl
from kv_memory.evaluation.progress import Progress
from kv_memory.sessions.memory import Memory
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.session import Session

MAX_ANSWER_TOKENS = 128


class Answers(BaseModel):
    """The model's answers to the same conversation."""

    before: str
    after: str
    never_saw: str


class Divergence(BaseModel):
    """Mean next-token KL from never-saw over never-saw's answer and its end of turn, in nats."""

    no_erase: float
    erased: float


class Seconds(BaseModel):
    """Wall-clock times of one run."""

    prefill: float
    """Seconds to prefill the whole conversation."""
    erase: float
    """Seconds for the retraction."""
    recompute: float
    """Seconds for the same retraction by `recompute`."""


class Comparison(BaseModel):
    """The result of a comparison; `--json` prints it."""

    model_config = ConfigDict(frozen=True)

    model: str
    tokens: int
    spans: list[Span]
    """Spans before the retraction."""
    retracted: RetractionReport
    eraser: str
    question: str | None
    answers: Answers
    kl: Divergence
    seconds: Seconds


def compare(
    memory: Memory,
    messages: Sequence[dict[str, Any]],
    targets: Sequence[Target],
    *,
    tools: list[dict[str, Any]] | None = None,
    question: str | None = None,
    eraser: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Compare a conversation before a retraction, after it, and without the retracted text from the start.

    Without a question the assistant's next turn is compared: trailing assistant turns are left off.
    """
    context = context_of(messages, question)
    asked = context if question is None else [*context, {"role": "user", "content": question}]
    name = f"compare-{len(memory.sessions())}"

    read = memory.session(name)
    total, needed = memory.count_tokens(context, tools, answer=False), memory.count_tokens(asked, tools)
    if needed > memory.engine.max_positions:
        raise ContextLengthError(
            f"The conversation needs {needed:,} tokens and the model reads at most {memory.engine.max_positions:,}; "
            "leave messages out, or use a model with a longer context."
        )
    started = time.perf_counter()
    read.prefill(context, tools, progress=lambda done: progress("Reading the conversation", done, total))
    prefill_seconds = time.perf_counter() - started
    spans = read.spans()

    before, again = read.fork(f"{name}/before"), read.fork(f"{name}/recompute")
    report = read.retract(*targets, reason="comparison", eraser=eraser)
    recompute = again.retract(*targets, eraser="recompute")
    never = memory.session(f"{name}/never-saw")
    never.prefill(
        context, tools, without=targets, progress=lambda done: progress("Reading it without the span", done, total)
    )

    def answer(session: Session, what: str) -> str:
        progress(what, 0, 0)
        return session.fork().chat(asked, tools, max_tokens=MAX_ANSWER_TOKENS).text

    answers = Answers(
        before=answer(before, "Answering before"),
        after=answer(read, "Answering after"),
        never_saw=answer(never, "Answering as never-saw"),
    )
    oracle, kept, erased = (s.score(asked, answers.never_saw, tools) for s in (never, before, read))
    return Comparison(
        model=memory.engine.name,
        tokens=total,
        spans=spans,
        retracted=report,
        eraser=report.eraser,
        question=question,
        answers=answers,
        kl=Divergence(no_erase=mean_kl(oracle, kept), erased=mean_kl(oracle, erased)),
        seconds=Seconds(prefill=prefill_seconds, erase=report.seconds, recompute=recompute.seconds),
    )
