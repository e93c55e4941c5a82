"""What every engine can do: hold sequences of KV cells, append to them, cut their ends off and generate.

A cell has a position, a token id and a K and a V row in each layer. Cells are addressed by position, never by where the
engine keeps them: positions are unique within a sequence, need not be contiguous (an erased span leaves a hole), and a
token attends to the visible cells at positions up to its own. What only some engines can do is in parts.py. This module
knows nothing of messages, nor of why cells are edited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kv_memory.locks import TurnLock

if TYPE_CHECKING:
    from torch import Tensor

SequenceId = int

STEERED = -1
"""The token id of a cell whose rows were written with an adapter on, a steering state: it stands for no text any more
and cannot be run again."""

ConfigCheck = Callable[[dict[str, Any]], object]
"""Is given a model's configuration before its weights are read, and raises what is wrong with it."""

LogitsMask = Callable[[Sequence[int], "Tensor"], "Tensor"]
"""From the ids generated so far and the logits [vocabulary] of the next one to logits in which a token that may not
come is minus infinity. It decides on the end of the turn too, which must stay possible once nothing else is."""


@dataclass(frozen=True)
class Sampling:
    """How to generate. Temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    mask: LogitsMask | None = None
    """What may be said, for decoding that a grammar constrains."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError("stop is a tuple of strings that are not empty.")
        given = (self.max_tokens, self.temperature, self.top_p)
        numbers = all(isinstance(number, (int, float)) for number in given)
        if not numbers or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "Sampling needs numbers max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1; got "
                f"{', '.join(map(repr, given))}."
            )


@dataclass(frozen=True)
class Token:
    """One generated token; `text` became final with it (empty while a character or stop string is incomplete)."""

    id: int
    text: str
    finish: Literal["stop", "length", "cancelled"] | None = None
    """Set on the last token only. That one may have no id (-1): it then carries `finish` and the rest of the text."""


@dataclass(frozen=True)
class Cells:
    """A copy of some cells of a sequence, in position order."""

    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    keys: Tensor
    """[layers, kv_heads, cells, head_dim]"""
    values: Tensor
    """[layers, kv_heads, cells, head_dim]"""
    queries: Tensor | None = None
    """[probe layers, heads, cells, head_dim], where the engine keeps queries"""


class Tokenizer(Protocol):
    """Text to ids and back, and the model's own chat template."""

    eos_ids: frozenset[int]

    def encode(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and the character interval of each. With `special` false no id that carries structure can come out."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these ids, special tokens left out, structure tokens such as <tool_call> kept."""
        ...

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """The chat template's text; with `generate`, followed by the head of an assistant turn."""
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
    """Longest context, in tokens."""
    kv_dtype: str
    """The type of K and V, such as "float16"."""

    def __init__(self) -> None:
        self.lock = TurnLock()
        """Held by callers around each call and each step of a `generate`; the engine itself never takes it."""
        self.ruled_out: dict[str, str] = {}
        """Capabilities of its parts that this model or its settings rule out, each with the reason, which goes after
        "the engine of NAME lacks it:"."""

    def weights_digest(self) -> str | None:
        """What tells this model from others of its shape: a digest of some of its weights; None where none is known."""
        return None

    @abstractmethod
    def create(self) -> SequenceId:
        """A new empty sequence."""

    @abstractmethod
    def free(self, seq: SequenceId) -> None:
        """Forget a sequence and give its memory back."""

    @abstractmethod
    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """A copy of the cells at positions below `end` (all without it); later edits of one do not touch the other."""

    @abstractmethod
    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Position and token id of each visible cell, ascending; STEERED for a steering state."""

    def positions(self, seq: SequenceId) -> list[int]:
        """The positions of the visible cells, ascending."""
        return [position for position, _ in self.cells(seq)]

    def tokens(self, seq: SequenceId) -> list[int]:
        """The token ids of the visible cells, in the order of their positions; STEERED for a steering state."""
        return [token for _, token in self.cells(seq)]

    @abstractmethod
    def next_position(self, seq: SequenceId) -> int:
        """One past the last cell; 0 when empty. A hole at the end (last cells dropped) does not count."""

    @abstractmethod
    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on."""

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
        token is neither yielded nor written, and what a stop string cut off is cut from the cells too. A closed
        iterator leaves cells behind; the caller truncates.
        """
