"""One turn of the assistant: generated token by token on a branch, then appended to its ledger."""

from __future__ import annotations

import atexit
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypedDict
from weakref import WeakSet

from kv_memory.conversation.answer_pieces import pieces_of
from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.tool_calls.parser import AnswerParser
from kv_memory.conversation.tool_calls.parts import ReplyPart
from kv_memory.engines.base import Engine, LogitsMask, Sampling, Token
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.plan import Tools
from kv_memory.sessions.reply import FinishReason, Reply, Usage


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `chat` and `stream`; see `Sampling` for what they mean."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    mask: LogitsMask | None
    may_call: bool
    """Whether the answer may call tools, True by default: if not, what looks like a call is content."""


@dataclass(frozen=True)
class Written:
    """More of an answer: its text as the model wrote it, and the parts of the message that became final with it."""

    text: str
    parts: Sequence[ReplyPart]


class ReplyStream:
    """An answer while it is generated: iterate for its text, or for the parts of its message, then read `reply`.

    Closing it early removes the answer from the cache.
    """

    def __init__(
        self, items: Generator[Written | Reply], let_go: Callable[[Generator[Written | Reply]], object]
    ) -> None:
        """Create a stream; `let_go` is given its items, which it holds, once nobody can read them any more."""
        self._items = items
        self._let_go = let_go
        _open_streams.add(self)
        self.reply: Reply | None = None

    def __del__(self) -> None:
        self._let_go(self._items)

    def __iter__(self) -> Iterator[str]:
        return (written.text for written in self._written() if written.text)

    def parts(self) -> Iterator[ReplyPart]:
        """Yield the parts of the message as they become final: content as it grows, each call once it is complete."""
        return (part for written in self._written() for part in written.parts)

    def _written(self) -> Iterator[Written]:
        for item in self._items:
            if isinstance(item, Reply):
                self.reply = item
            else:
                yield item

    def finish(self) -> Reply:
        """Generate to the end and return the reply."""
        for _ in self._written():
            pass
        assert self.reply is not None, "an exhausted stream has its reply"
        return self.reply

    def close(self) -> None:
        """Stop generating; the session does not keep the answer."""
        self._items.close()


_open_streams: WeakSet[ReplyStream] = WeakSet()


@atexit.register
def _close_streams() -> None:
    """Close streams that were left open while torch can still free what they hold; later that aborts the process."""
    for stream in list(_open_streams):
        with suppress(Exception):  # one that is being read by another thread cannot be closed
            stream.close()


class Turn:
    """The assistant's turn after one conversation: `begin`, then `generate`, then `finish`, in this order."""

    def __init__(
        self,
        engine: Engine,
        form: ChatFormat,
        messages: list[Message],
        tools: Tools,
        sampling: Sampling,
        *,
        sealed: Callable[[Message], Message],
        may_call: bool = True,
    ) -> None:
        """Create a turn; ConversationError where the template cannot make the assistant speak after `messages`.

        `sealed` gives the answer, once it is written, its identity in the session. `may_call`: whether it may call
        tools.
        """
        self.messages = messages
        self.begins = form.head(messages, tools)
        """Text that makes the assistant speak."""
        self.head: Piece = form.scaffold(self.begins)
        if sampling.mask is not None:
            sampling = replace(sampling, mask=engine.lock.callback(sampling.mask))
        self._engine, self._form, self._tools, self._sampling = engine, form, tools, sampling
        self._sealed = sealed
        self._branch: Branch | None = None
        self._start = 0
        self._parser = AnswerParser(uuid.uuid4().hex[:12], tools, form.markers, head=self.begins, calls=may_call)
        self._reason = FinishReason.STOP
        self._generated = 0
        self._complete = False
        self._interrupted = False

    @property
    def room(self) -> int:
        """Return the number of tokens that have to fit after the conversation: the turn's head and one more."""
        return len(self.head.ids) + 1

    def begin(self, branch: Branch) -> None:
        """Reserve the end of a branch that holds the conversation. Callers hold the engine's lock."""
        self._branch, self._start = branch, self._engine.next_position(branch.seq)
        self._engine.mark(branch.seq, [self._start])
        branch.busy, branch.interrupt = True, self.interrupt

    def generate(self, cancelled: Callable[[], bool]) -> Generator[Written]:
        """Yield the answer as it is generated. The engine's lock is held for each token, but not while yielding."""
        assert self._branch is not None, "a turn begins first"
        tokens: Generator[Token] | None = None
        asked = self._engine.lock.callback(cancelled)
        try:
            with self._engine.lock:
                if not self._interrupted:
                    self._engine.prefill(self._branch.seq, self.head.ids)
                    tokens = self._engine.generate(self._branch.seq, self._sampling, asked)
            while tokens is not None:
                with self._engine.lock:
                    token = None if self._interrupted else self._next(self._branch, tokens)
                if token is None:
                    break
                self._reason = FinishReason(token.finish or self._reason)
                self._generated += token.id >= 0
                if token.text:
                    yield Written(token.text, self._parser.push(token.text))
            yield Written("", self._parser.finish())
            self._complete = not self._interrupted and self._reason is not FinishReason.CANCELLED
        finally:
            with self._engine.lock:
                if tokens is not None:
                    tokens.close()

    def _next(self, branch: Branch, tokens: Generator[Token]) -> Token | None:
        branch.active = time.monotonic()
        return next(tokens, None)

    def finish(self) -> None:
        """Enter the answer into the branch if it is complete, else remove its cells. Callers hold the engine's lock."""
        branch = self._branch
        assert branch is not None, "a turn begins first"
        if self._interrupted:
            return
        entered = False
        try:
            entered = self._complete and self._enter(branch)
        finally:
            self._release(branch, entered)

    def interrupt(self, reason: FinishReason) -> None:
        """Stop generating and remove the answer's cells; the stream ends for this reason. Callers hold the engine's
        lock."""
        assert self._branch is not None, "a turn begins first"
        self._interrupted, self._reason = True, reason
        self._release(self._branch, entered=False)

    def _release(self, branch: Branch, entered: bool) -> None:
        """Give the branch back: first, so that nothing that fails afterwards leaves it busy."""
        branch.busy, branch.interrupt = False, None
        if not entered and branch.resident:
            self._engine.truncate(branch.seq, self._start)

    def reply(self, usage: Usage) -> Reply:
        """Return the finished answer; `usage` is that of reading the conversation."""
        counted = {"prefilled": usage.prefilled + len(self.head.ids), "generated": self._generated}
        answer = self._parser.answer
        return Reply(
            message=answer.message(),
            invalid_calls=tuple(answer.invalid_calls),
            text=answer.text,
            finish_reason=self._reason,
            usage=usage.model_copy(update=counted),
        )

    def _enter(self, branch: Branch) -> bool:
        """Close the turn in the cache and append it; return False where its closing no longer fits in the context."""
        answer = self._parser.answer
        said = parse_messages([answer.message()])[0]
        ends = self._form.end([*self.messages, said], self._tools)
        closing = self._form.scaffold(ends)
        if self._engine.next_position(branch.seq) + len(closing.ids) > self._engine.max_positions:
            return False
        ids = [token for position, token in self._engine.cells(branch.seq) if position >= self._start]
        ids = ids[len(self.head.ids) :]
        self._engine.prefill(branch.seq, closing.ids)
        written = "".join([self.begins, answer.text, ends])
        pieces = [self.head, *pieces_of(self._engine.tokenizer, ids, answer), closing]
        branch.ledger.append(self._sealed(said), pieces, self._start, generated=True, written=written)
        return True
