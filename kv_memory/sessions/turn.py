"""Answering: one turn of the assistant, generated token by token and then entered into its branch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from kv_memory.conversation.chat_format import ChatFormat, Piece
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.engines.base import Engine, LogitsMask, Sampling, Tokenizer
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.reply import FinishReason, Reply, Usage, call_starts, read_message


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `chat` and `stream`; see Sampling for what they mean."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    mask: LogitsMask | None


class ReplyStream:
    """An answer as it is written: iterate for its text, then read `reply`. Closing it early leaves nothing behind."""

    def __init__(self, items: Generator[str | Reply], answer_id: str) -> None:
        self._items = items
        self.answer_id = answer_id
        """The ids of its tool calls are `call_id(answer_id, 0)` and so on."""
        self.reply: Reply | None = None

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            if isinstance(item, Reply):
                self.reply = item
            else:
                yield item

    def finish(self) -> Reply:
        """Read on to the end."""
        for _ in self:
            pass
        assert self.reply is not None, "an exhausted stream has its reply"
        return self.reply

    def close(self) -> None:
        """Stop generating; the session does not remember the answer."""
        self._items.close()


@dataclass
class Answering:
    """The answer to one conversation."""

    engine: Engine
    format: ChatFormat
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    sampling: Sampling

    def __post_init__(self) -> None:
        self.head: Piece = self.format.generation_prompt(self.messages, self.tools)
        self.id = uuid.uuid4().hex[:12]

    def run(
        self,
        hold: Callable[[], tuple[Branch, Usage]],
        cancelled: Callable[[], bool],
        afterwards: Callable[[], None],
    ) -> Generator[str | Reply]:
        """Yield the text as it comes and the reply last.

        `hold` gives the branch that holds the conversation; `afterwards` is called when that branch is free again. The
        engine's lock is taken for each token, never held while the caller looks at the text.
        """
        with self.engine.lock:
            branch, usage = hold()
            start = self.engine.next_position(branch.seq)
            branch.busy = True
        complete, text, finish, generated = False, "", FinishReason("stop"), 0
        tokens: Generator[Any] | None = None
        try:
            with self.engine.lock:
                self.engine.prefill(branch.seq, self.head.ids)
                tokens = self.engine.generate(branch.seq, self.sampling, cancelled)
            while True:
                with self.engine.lock:
                    token = next(tokens, None)
                if token is None:
                    break
                finish, generated = FinishReason(token.finish or finish), generated + (token.id >= 0)
                text += token.text
                if token.text:
                    yield token.text
            complete = finish is not FinishReason.CANCELLED
        finally:
            with self.engine.lock:
                if tokens is not None:
                    tokens.close()
                message, entered = read_message(text, self.id), False
                try:
                    entered = complete and self._enter(branch, start, message, text)
                finally:
                    if not entered:
                        self.engine.truncate(branch.seq, start)
                    branch.busy = False
                    afterwards()
        usage = usage.model_copy(update={"prefilled": usage.prefilled + len(self.head.ids), "generated": generated})
        yield Reply(message=message, text=text, finish_reason=finish, usage=usage)

    def _enter(self, branch: Branch, start: int, message: dict[str, Any], text: str) -> bool:
        """Close the turn in the cache and enter it; False where its closing no longer fits in the context."""
        said = parse_messages([message])[0]
        closing = self.format.closing([*self.messages, said], self.tools)
        written = len(self.engine.positions(branch.seq))
        ids = self.engine.tokens(branch.seq)[
            written - (self.engine.next_position(branch.seq) - start) + len(self.head.ids) :
        ]
        if self.engine.next_position(branch.seq) + len(closing.ids) > self.engine.capabilities.max_positions:
            return False
        self.engine.prefill(branch.seq, closing.ids)
        pieces = [self.head, *_generated_pieces(self.engine.tokenizer, ids, text, bool(said.tool_calls)), closing]
        branch.ledger.append(said, pieces, start, generated=True)
        return True


def _generated_pieces(tokenizer: Tokenizer, ids: list[int], text: str, calls: bool) -> list[Piece]:
    """The generated tokens as content and, from its `<tool_call>` on, each call."""
    chars = _char_intervals(tokenizer, ids, text)
    starts = call_starts(text) if calls else []
    pieces: list[Piece] = []
    for call, (begin, end) in enumerate(zip([0, *starts], [*starts, len(text) + 1], strict=True), start=-1):
        chosen = [i for i, (at, _) in enumerate(chars) if begin <= at < end]
        part = tuple(ids[i] for i in chosen)
        if part and call < 0:
            pieces.append(Piece("content", part, tuple(chars[i] for i in chosen)))
        elif part:
            pieces.append(Piece("call", part, call=call))
    return pieces


def _char_intervals(tokenizer: Tokenizer, ids: list[int], text: str) -> list[tuple[int, int]]:
    """The characters of `text` that each token stands for."""
    again, chars = tokenizer.encode(text, special=False)
    if again == ids:
        return chars
    # the model did not write the text as the tokenizer would: see how the text grows with each token
    ends = [len(tokenizer.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
    return list(zip([0, *ends[:-1]], ends, strict=True))
