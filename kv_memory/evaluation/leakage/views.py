"""Views into a session's cache: log-probabilities of answers, and the greedy answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kv_memory.conversation.messages import parse_messages
from kv_memory.engines.base import Engine, Sampling, SequenceId
from kv_memory.engines.parts import Scoring, require
from kv_memory.evaluation.leakage.scenes import Messages, Tools
from kv_memory.sessions.memory import Memory
from kv_memory.sessions.session import Session

ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Asked:
    """A cache that ends with a question, where the assistant is about to answer."""

    engine: Engine
    seq: SequenceId

    def log_probability(self, answer: str) -> float:
        """Return the log-probability of an answer that begins so, in nats."""
        ids, _ = self.engine.tokenizer.encode(answer, special=False)
        rows = require(self.engine, Scoring, "Measuring leakage").score(self.seq, ids).double()
        return float(rows[torch.arange(len(ids)), torch.tensor(ids)].sum())

    def greedy(self) -> str:
        """Generate the greedy answer. To be called once: its tokens stay in the cache."""
        sampling = Sampling(max_tokens=ANSWER_TOKENS)
        return "".join(token.text for token in self.engine.generate(self.seq, sampling)).strip()


@contextmanager
def asking(memory: Memory, session: Session, messages: Messages, question: str, tools: Tools) -> Iterator[Asked]:
    """Fork a session that holds `messages`, with a question after them; delete the fork after the block."""
    said = [*messages, {"role": "user", "content": question}]
    with session.fork() as fork, memory.engine.lock:
        fork.prefill(said, tools)
        branch = fork.branches.latest
        assert branch is not None
        memory.engine.prefill(branch.seq, memory.format.generation_prompt(parse_messages(said), tools).ids)
        yield Asked(memory.engine, branch.seq)


def answers(memory: Memory, session: Session, messages: Messages, questions: Sequence[str], tools: Tools) -> list[str]:
    """Return the greedy answer to each question, each asked in a fork of its own."""
    said = []
    for question in questions:
        with asking(memory, session, messages, question, tools) as asked:
            said.append(asked.greedy())
    return said
