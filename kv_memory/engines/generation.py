"""Sampling one token after another from an engine, with transformers' logits processors and end-of-turn criterion.

Stop strings are found in the text (text_stream.py) and not by transformers' StopStringCriteria: that one does not say
where in the last token the stop string begins, and analyses the whole vocabulary first, at each call (about 2 s for
150,000 entries).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation import EosTokenCriteria

from kv_memory.engines.base import Engine, Sampling, SequenceId, Token
from kv_memory.engines.text_stream import TextStream
from kv_memory.errors import ContextLengthError


class Sampler:
    """Draws the next token; temperature 0 takes the likeliest. Raises ValueError for settings that are out of range."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._warpers = LogitsProcessorList()
        if sampling.temperature != 0:
            self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_p != 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._greedy = sampling.temperature == 0
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        """Draw an id from logits [vocabulary]."""
        if self._greedy:
            return int(logits.argmax())
        no_ids = torch.empty(1, 0, dtype=torch.int64, device=logits.device)  # these warpers look at the scores alone
        scores = self._warpers(no_ids, logits[None].float())
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._generator))


def generate(
    engine: Engine,
    seq: SequenceId,
    next_logits: Callable[[SequenceId], Tensor],
    sampling: Sampling,
    cancelled: Callable[[], bool],
) -> Generator[Token]:
    """Generate the tokens of one continuation; see Engine.generate for what the cells hold afterwards.

    `next_logits` returns the logits [vocabulary] after the sequence's last cell. Raises ValueError at once, not at the
    first token.
    """
    sampler = Sampler(sampling, next_logits(seq).device)

    def draw(said: Sequence[int]) -> int:
        logits = next_logits(seq)
        return sampler(sampling.mask(said, logits) if sampling.mask else logits)

    return _tokens(engine, seq, draw, sampling, cancelled)


def _tokens(
    engine: Engine,
    seq: SequenceId,
    draw: Callable[[Sequence[int]], int],
    sampling: Sampling,
    cancelled: Callable[[], bool],
) -> Generator[Token]:
    """Yield the tokens, each after its cell is written: a caller who stops early has a cell for all it saw."""
    stream = TextStream(engine.tokenizer.decode, sampling.stop)
    ends = EosTokenCriteria(sorted(engine.tokenizer.eos_ids))
    start = engine.next_position(seq)
    said: list[int] = []

    def last(token: Token) -> Token:
        """Return this token as the last one, with the text that was held back, and make the cells those of the text."""
        text = token.text + stream.flush()
        engine.truncate(seq, start + stream.kept)
        engine.prefill(seq, engine.tokenizer.encode(stream.remainder, special=False)[0])
        return Token(token.id, text, token.finish)

    for count in range(1, sampling.max_tokens + 1):
        if cancelled():
            yield last(Token(-1, "", "cancelled"))
            return
        token = draw(said)
        if bool(ends(torch.tensor([[token]]), None)):
            yield last(Token(-1, "", "stop"))
            return
        try:
            engine.prefill(seq, [token])
        except ContextLengthError:
            break
        said.append(token)
        text = stream.push(token)
        if stream.stopped or count == sampling.max_tokens:
            yield last(Token(token, text, "stop" if stream.stopped else "length"))
            return
        yield Token(token, text)
    yield last(Token(-1, "", "length"))
