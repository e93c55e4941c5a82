"""The engine contract: hold sequences of KV cells, append to them, truncate them and generate.

A cell has a position, a token id and a K and a V row in each layer. Cells are addressed by position, never by where the
engine keeps them: positions are unique within a sequence, need not be contiguous (an erased span leaves a hole), and a
token attends to the visible cells at positions up to its own. Capabilities of some engines only are in parts.py. This
module knows nothing of messages, nor of why cells are edited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kv_memory.arguments import check, check_function, shown
from kv_memory.errors import ArgumentError
from kv_memory.locks import TurnLock

if TYPE_CHECKING:
    from torch import Tensor

SequenceId = int

FREE_ON_GPU = 256
"""Tokens that a GPU runs in the time of one: up to some 250, a pass takes as long as reading the weights."""

STEERED = -1
"""Token id of a cell that holds a steering state, rows written with an adapter on: the cell holds no token any more and
cannot be recomputed."""

ConfigCheck = Callable[[dict[str, Any]], object]
"""Function that is given a model's configuration before its weights are read, and raises where something is wrong with
it."""

LogitsMask = Callable[[Sequence[int], "Tensor"], "Tensor"]
"""Function from the ids generated so far and the logits [vocabulary] of the next one to logits in which every token
that may not come is minus infinity. It decides on the end of the turn too, which must stay possible once nothing else
is."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation. Temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    mask: LogitsMask | None = None
    """Limit on which token may come next, for decoding that a grammar constrains."""

    def __post_init__(self) -> None:
        check("stop", self.stop, (tuple, list), "a tuple of strings")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ArgumentError("stop is a tuple of strings that are not empty.")
        check("seed", self.seed, (int, NoneType), "a whole number, or None")
        check_function("mask", self.mask)
        check("max_tokens", self.max_tokens, int, "a whole number of at least 1")
        given = (self.max_tokens, self.temperature, self.top_p)
        numbers = all(isinstance(number, (int, float)) for number in given)
        if not numbers or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ArgumentError(
                "Sampling needs numbers max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1; got "
                f"{', '.join(map(shown, given))}."
            )


@dataclass(frozen=True)
class Token:
    """One generated token. `text` became final with it: empty while a character or stop string is incomplete."""

    id: int
    text: str
    finish: Literal["stop", "length", "cancelled"] | None = None
    """The reason why generation ended, on the last token only. That token may have no id (-1): it then carries `finish`
    and the rest of the text."""


@dataclass(frozen=True)
class Cells:
    """A copy of some cells of a sequence, in position order."""

    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    """[kv_heads, cells, width] of each layer; no heads where a layer uses the K and V of another one"""
    values: tuple[Tensor, ...]
    """[kv_heads, cells, width] of each layer"""
    queries: tuple[Tensor, ...] = ()
    """[heads, cells, width] of each layer whose queries the engine keeps"""

    @property
    def kv_bytes(self) -> int:
        """Return the memory of K and V."""
        return sum(rows.nbytes for rows in (*self.keys, *self.values))

    def check(
        self,
        keys: Sequence[tuple[int, ...]],
        values: Sequence[tuple[int, ...]],
        queries: Sequence[tuple[int, ...]],
    ) -> None:
        """Raise ValueError unless the rows have these shapes, those of an engine's model."""
        wanted = [list(keys), list(values), list(queries)]
        found = [[tuple(rows.shape) for rows in part] for part in (self.keys, self.values, self.queries)]
        if found != wanted:
            raise ValueError(f"cells of shapes {_said(found)} are not this model's {_said(wanted)}")


def _said(shapes: Sequence[Sequence[tuple[int, ...]]]) -> str:
    """Return the shapes of K, V and queries in words, each kind once."""
    parts = (f"{len(part)} x {sorted(set(part))}" for part in shapes if part)
    return ", ".join(parts) or "none"


@dataclass(frozen=True)
class TokenTable:
    """The tokens of a vocabulary, as libraries that constrain decoding by a grammar take them."""

    written: Sequence[bytes]
    """Bytes that each token writes, by id; empty for an id that no token has. Those of one token need not be whole
    characters."""
    structure: frozenset[int]
    """Ids that `encode` gives only with `special`: ends of turns, <tool_call>. Text is never made of them."""


class Tokenizer(Protocol):
    """Text to ids and back, and the model's own chat template."""

    eos_ids: frozenset[int]

    @property
    def adds_space(self) -> bool:
        """Return whether a space is put before a text, as SentencePiece does; only then does it matter what `encode`
        is told to come before."""
        ...

    def token_table(self) -> TokenTable:
        """Return what each token writes. Raises UnsupportedOperationError where tokens do not write bytes of their
        own."""
        ...

    def encode(self, text: str, *, special: bool, after: str = "\n") -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the character interval of each. With `special` false, none of the ids carries structure.

        `after`: the text before it, empty at the beginning of a sequence; its end is enough. SentencePiece writes a
        space at the beginning, and some tokenizers after each special token, but not elsewhere.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids. Special tokens are left out but for those of markers.py; structure tokens such
        as <tool_call> are kept."""
        ...

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """Format messages with the chat template; with `generate`, the head of an assistant turn follows."""
        ...


class Engine(ABC):
    """A model and the KV cells of any number of sequences. One call at a time: callers hold `lock`.

    This is the required core: an engine that has no more can be used in a `Memory`, and erases by `recompute`. Methods
    that take positions raise ValueError for a position that holds no cell, and leave the cells as they were.
    """

    name: str
    """Path or hub id of the model."""
    config: Mapping[str, Any]
    """The text model's configuration, in Hugging Face's words."""
    tokenizer: Tokenizer
    max_positions: int
    """Longest context, in positions."""
    kv_dtype: str
    """Type of K and V, such as "float16"."""
    chunk: int | None = None
    """Size of the chunks into which some layers divide positions, so that a token sees no cell of an earlier chunk
    there; None where no layer does."""
    unproven: str = ""
    """Reason why recomputing a few tokens may do little in this model, after "since"; without a calibration, no
    approximate eraser is chosen then. Empty where it has been seen to do well."""
    free_tokens: int = 1
    """Number of tokens that a forward pass runs in the time of one, which is that of reading the weights once."""

    def __init__(self) -> None:
        self.lock = TurnLock()
        """Held by callers around each call and each step of a `generate`; the engine itself never takes it."""
        self.ruled_out: dict[str, str] = {}
        """Capabilities that this model or its settings rule out, by name, each with the reason, also of parts that the
        engine is without; messages put it after "the engine of NAME lacks it:"."""

    def weights_digest(self) -> str | None:
        """Return a digest of some of the weights, which tells models of one shape apart; None where none is known."""
        return None

    @abstractmethod
    def create(self) -> SequenceId:
        """Create an empty sequence."""

    @abstractmethod
    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its memory."""

    @abstractmethod
    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """Copy the cells at positions below `end` (default: all) to a new sequence, which is independent of this
        one."""

    @abstractmethod
    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Return the position and token id of each visible cell, positions ascending; STEERED for a steering state."""

    def positions(self, seq: SequenceId) -> list[int]:
        """Return the positions of the visible cells, ascending."""
        return [position for position, _ in self.cells(seq)]

    def tokens(self, seq: SequenceId) -> list[int]:
        """Return the token ids of the visible cells, in the order of their positions; STEERED for a steering state."""
        return [token for _, token in self.cells(seq)]

    @abstractmethod
    def next_position(self, seq: SequenceId) -> int:
        """Return the position after the last cell's; 0 when empty. Cells that were dropped at the end do not count."""

    def editable_from(self, seq: SequenceId) -> int:
        """Return the first position from which cells can be edited in place; 0 where all can.

        Text before it is erased by truncating the sequence alone.
        """
        return 0

    @abstractmethod
    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on."""

    def replayed_from(self, seq: SequenceId, start: int) -> int:
        """Return the first position whose token runs again once the sequence is truncated at `start` and goes on.

        It is `start` itself, unless the engine can only go back to where it kept its state.
        """
        return start

    def mark(self, seq: SequenceId, positions: Sequence[int]) -> None:  # noqa: B027  # most engines need no marks
        """Note that parts of the conversation begin at these positions, from `next_position` on: the sequence may be
        truncated there. An engine that can only go back to where it kept its state keeps it there."""

    def marks(self, seq: SequenceId) -> list[int]:
        """Return the positions noted by `mark` that the sequence still reaches, ascending; none where the engine needs
        none."""
        return []

    @abstractmethod
    def prefill(
        self,
        seq: SequenceId,
        ids: Sequence[int],
        positions: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append tokens at these positions (default: from `next_position` on), in chunks.

        `progress` is called with the number of tokens done after each chunk. Raises ContextLengthError, with the cells
        as they were, when a position is beyond the model's context; an exception from `progress` rolls back as well.
        """

    @abstractmethod
    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        """Continue the sequence, one token at a time.

        When the iterator is exhausted, the cells hold exactly the tokens of the text that was yielded: the end-of-turn
        token is neither yielded nor written, and what a stop string cuts off the text is cut off the cells too. An
        iterator that is closed early may leave cells whose text was not yielded; the caller truncates them.
        """
