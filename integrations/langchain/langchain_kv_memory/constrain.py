"""Decoding constrained by a grammar, with llguidance: tool calls, forced or well-formed, and answers of a schema."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from kv_memory import Engine, LogitsMask, TokenTable, UnsupportedOperationError
from langchain_kv_memory.guidance_tokens import guidance_tokenizer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """A maker of logits masks for one model's tokenizer.

    Where the answer must be constrained it raises UnsupportedOperationError if the tokens of the engine's tokenizer do
    not write bytes of their own.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._table: TokenTable | None = None
        self._compiled: LLTokenizer | None = None
        self.open_id = self._id_of(OPEN)
        """Id of the token that begins a tool call; None where it is not one token."""
        marks = [(mark, self._id_of(mark)) for mark in (OPEN, CLOSE)]
        self._marks = [json.dumps(mark) if id_ is None else f"<[{id_}]>" for mark, id_ in marks]

    def answer(
        self,
        tools: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        *,
        close_calls: bool = False,
    ) -> LogitsMask:
        """Return a mask for an answer that is one call of one of these tools, or JSON of this schema, if there is one.

        When `max_tokens` come near, strings, lists and objects of JSON are closed as soon as they may be, so that the
        answer fits its schema also where the model finds no end. Those of a call are not, unless `close_calls`: it
        would be run with arguments that the model had not finished.
        """
        choices = ["call"] if tools else []
        rules = [_call_rules(tools), f'call: {self._marks[0]} "\\n" body "\\n" {self._marks[1]}'] if tools else []
        if schema is not None:
            choices.append("json")
            rules.append(f"json: {_json(schema)}")
        grammar = "\n".join([f"start: {' | '.join(choices)}", *rules])
        matcher = self._matcher(grammar)
        reserve = min(len(self._engine.tokenizer.encode(grammar, special=False)[0]), max_tokens // 2)
        return GrammarMask(matcher, self._closers(), max_tokens - reserve, None if close_calls else self._is_call)

    def calls(self, tools: Sequence[Mapping[str, Any]]) -> LogitsMask | None:
        """Return a mask for a free answer in which a call, once begun, is of one of these tools.

        None where that is not possible: calls are not marked by a token, or a schema is of a kind that is not known.
        """
        if self.open_id is None:
            return None
        grammar = f'start: "\\n" body "\\n" {self._marks[1]}\n{_call_rules(tools)}'
        try:
            self._matcher(grammar)
        except (ValueError, UnsupportedOperationError):
            return None
        return CallMask(self.open_id, lambda: self._matcher(grammar))

    def no_calls(self) -> LogitsMask | None:
        """Return a mask for an answer without calls; None where calls are not marked by a token."""
        if self.open_id is None:
            return None
        barred = self.open_id

        def mask(_said: Sequence[int], logits: Tensor) -> Tensor:
            return logits.index_fill(-1, torch.tensor([barred], device=logits.device), float("-inf"))

        return mask

    def _id_of(self, mark: str) -> int | None:
        ids, _ = self._engine.tokenizer.encode(mark, special=True)
        return ids[0] if len(ids) == 1 else None

    def _is_call(self, said: Sequence[int]) -> bool:
        """Return whether an answer is a call: JSON begins in another way."""
        return self._engine.tokenizer.decode(said[:1]).startswith(OPEN[0])

    def _closers(self) -> tuple[Tensor, Tensor]:
        """Return the ids that close something: first those that close a string, where the others would be its text."""
        assert self._table is not None, "a matcher is made first"
        ends = {i: text for i, text in enumerate(self._table.written) if text and set(text) <= set(b'"}]')}
        quotes = [i for i, text in ends.items() if text.startswith(b'"')]
        others = [i for i in ends if i not in quotes]
        return torch.tensor(quotes), torch.tensor([*others, *self._engine.tokenizer.eos_ids])

    def _matcher(self, grammar: str) -> LLMatcher:
        with self._lock:
            if self._compiled is None:
                self._table = self._engine.tokenizer.token_table()
                self._compiled = guidance_tokenizer(self._engine.tokenizer, self._table)
        matcher = LLMatcher(self._compiled, grammar)
        if matcher.is_error():
            reason = matcher.get_error().split("\n")[0]
            raise ValueError(f"This schema cannot constrain what the model says ({reason}); simplify it.")
        return matcher


class GrammarMask:
    """A mask that allows what the grammar allows, from the first token on.

    After `late` tokens only what closes something, wherever the grammar allows that, unless it `is_call`. So it is also
    where the model repeats itself without end, as small ones do within a string; that cuts off nothing that it meant.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        closers: Sequence[Tensor],
        late: int,
        is_call: Callable[[Sequence[int]], bool] | None,
    ) -> None:
        self._matcher = matcher
        self._closers = closers
        self._late = late
        self._is_call = is_call
        self._consumed = 0

    def __call__(self, said: Sequence[int], logits: Tensor) -> Tensor:
        """Return the logits, minus infinity for what may not come."""
        self._matcher.consume_tokens(list(said[self._consumed :]))
        self._consumed = len(said)
        allowed = _allowed(self._matcher, len(logits))
        late = len(said) >= self._late and not (self._is_call and self._is_call(said))
        for closers in self._closers if late or repeats(said) else ():
            closing = torch.zeros_like(allowed).index_fill(0, closers, True) & allowed
            if closing.any():
                return _masked(logits, closing)
        return _masked(logits, allowed)


def repeats(said: Sequence[int]) -> bool:
    """Return whether tokens end in the same few, again and again: at least four times, and 24 tokens in all."""
    for period in range(1, 13):
        length = period * max(4, -(-24 // period))
        tail = list(said[-length:])
        if len(tail) == length and tail == tail[:period] * (length // period):
            return True
    return False


class CallMask:
    """A mask that allows everything until a call begins, and then what the grammar of calls allows until it ends."""

    def __init__(self, open_id: int, begin: Callable[[], LLMatcher]) -> None:
        self._open_id = open_id
        self._begin = begin
        self._matcher: LLMatcher | None = None
        self._consumed = 0

    def __call__(self, said: Sequence[int], logits: Tensor) -> Tensor:
        """Return the logits, minus infinity for what may not come."""
        for token in said[self._consumed :]:
            if self._matcher is not None:
                self._matcher.consume_token(token)
                self._matcher = None if self._matcher.is_accepting() else self._matcher
            elif token == self._open_id:
                self._matcher = self._begin()
        self._consumed = len(said)
        return logits if self._matcher is None else _masked(logits, _allowed(self._matcher, len(logits)))


def _allowed(matcher: LLMatcher, vocabulary: int) -> Tensor:
    """Return which tokens may come next: bool [vocabulary]."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    allowed = torch.zeros(vocabulary, dtype=torch.bool)
    known = min(len(bits), vocabulary)  # models pad their vocabulary beyond the tokenizer's
    allowed[:known] = torch.from_numpy(bits[:known].astype(bool))
    return allowed


def _masked(logits: Tensor, allowed: Tensor) -> Tensor:
    return logits.masked_fill(~allowed.to(logits.device), float("-inf"))


def _call_rules(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return rules for `body`: the JSON of a call of one of these tools, spaced as chat templates space it."""
    rules = []
    for number, tool in enumerate(tools):
        name = json.dumps(f'{{"name": {json.dumps(tool["function"]["name"])}, "arguments": ')
        schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
        rules += [f'tool{number}: {name} args{number} "}}"', f"args{number}: {_json(schema)}"]
    return "\n".join([f"body: {' | '.join(f'tool{i}' for i in range(len(tools)))}", *rules])


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({"x-guidance": _STYLE, **_closed(schema)})


def _closed(schema: Any) -> Any:
    """Return the schema; an object that names its properties has no others."""
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions"):
            closed[key] = {name: _closed(part) for name, part in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            closed[key] = [_closed(part) for part in value]
        elif key == "items":
            closed[key] = _closed(value)
    return closed if "properties" not in schema else {"additionalProperties": False, **closed}
