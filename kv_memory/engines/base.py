"""What an engine is: sequences of KV cells and the primitives that edit them.

A cell has a position, a token id and a K and a V row in each layer. Cells are addressed by position, never by where the
engine keeps them: positions are unique within a sequence, need not be contiguous (an erased span leaves a hole), and a
token attends to the visible cells at positions up to its own. This module knows nothing of messages, spans or erasers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kv_memory.errors import UnsupportedOperationError
from kv_memory.locks import TurnLock
from kv_memory.positions import Interval

if TYPE_CHECKING:
    from torch import Tensor

SequenceId = int

STEERED = -1
"""The token id of a cell that holds a steering state: it stands for no text any more and cannot be run again."""

Normaliser = Literal["softmax", "sampled", "none"]
"""What an influence score is divided by: `softmax` over all cells gives attention mass, at a cost of later cells times
all cells, or where many follow of the highest of them times all cells (attention_mass.EXACT); `sampled` estimates that
from an even sample of some 256 cells, at a cost of later cells times sample and spans; `none` is the logarithm of what
the softmax would divide."""


def default_probe_layer(depth: int) -> int:
    """The layer whose queries an engine of so many layers keeps for `influence`, unless told otherwise.

    Just above the middle: 5 of 10 is the best in the pocket model, by far (benchmarks/ablations.md); 3 of 8 was in our
    feasibility study.
    """
    return depth // 2


@dataclass(frozen=True)
class Steering:
    """A trained eraser that is loaded (KVEraser, arXiv 2606.17034)."""

    adapter: str
    """The name of its LoRA, for `reencode`."""
    slots: int | None = None
    """Cells of a span that are steered; the others are removed. None: all of them."""
    spread: bool = False
    """The slots are spread evenly over the span; else they are its first cells."""
    sees_suffix: bool = False
    """The slots attend to what is kept after the spans too, not only to what is before them."""
    token: int | None = None
    """Id of the token that every slot reads in place of its own, so that it cannot pass on what stood there."""
    closes: bool = False
    """The cells that are removed leave no gap: what follows a span moves up to its slots, which are its first cells."""

    def cells(self, start: int, end: int) -> list[Interval]:
        """Those of a span's cells that are steered, ascending and disjoint."""
        length = end - start
        count = length if self.slots is None else min(self.slots, length)
        if not self.spread or count == length:
            return [(start, start + count)]
        # each in the middle of its share of the span
        places = (start + (2 * slot + 1) * length // (2 * count) for slot in range(count))
        return [(place, place + 1) for place in places]


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do with the model that it holds."""

    max_positions: int
    """Longest context of the model, in tokens."""
    kv_dtype: str
    shift: bool = True
    """Keys can be re-rotated (RoPE of a kind that composes)."""
    influence: bool = True
    """The queries that `influence` needs are kept at prefill."""
    deviation: bool = True
    adapters: bool = True
    """A LoRA adapter can be switched on for one call of `reencode`."""
    ahead: bool = True
    """`reencode` can show tokens what comes after them."""
    steering: Steering | None = None
    """The trained eraser that `steer` uses; None where none is loaded."""


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

    Methods that take positions raise ValueError for a position that holds no cell, and leave the cells as they were.
    """

    name: str
    """Path or hub id of the model."""
    config: Mapping[str, Any]
    """The text model's configuration, in Hugging Face's words."""
    capabilities: Capabilities
    tokenizer: Tokenizer

    def __init__(self) -> None:
        self.lock = TurnLock()
        """Held by callers around each call and each step of a `generate`; the engine itself never takes it."""

    def weights_digest(self) -> str | None:
        """What tells this model from others of its shape: a digest of some of its weights; None where none is known."""
        return None

    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA directory saved by PEFT, for `reencode(adapter=name)`; it stays off otherwise.

        Raises ModelError, with nothing loaded, for a path that is none or was made for a model of other sizes.
        """
        raise UnsupportedOperationError(
            f"The engine of {self.name} loads no adapters; use another eraser than 'steer'."
        )

    def steer_with(self, steering: Steering | None) -> None:
        """Which loaded eraser `steer` uses from now on."""
        self.capabilities = replace(self.capabilities, steering=steering)

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
    def positions(self, seq: SequenceId) -> list[int]:
        """The positions of the visible cells, ascending."""

    @abstractmethod
    def tokens(self, seq: SequenceId) -> list[int]:
        """The token ids of the visible cells, in the order of their positions; STEERED for a steering state."""

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Position and token id of each visible cell, ascending."""
        return list(zip(self.positions(seq), self.tokens(seq), strict=True))

    @abstractmethod
    def next_position(self, seq: SequenceId) -> int:
        """One past the last cell; 0 when empty. A hole at the end (last cells dropped) does not count."""

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

    @abstractmethod
    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Log-probabilities [len(ids), vocabulary] before each of `ids`, were they appended. Nothing is committed."""

    @abstractmethod
    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on."""

    @abstractmethod
    def drop(self, seq: SequenceId, start: int, end: int) -> None:
        """Remove the cells at positions [start, end) and wipe their rows; all others stay bit-identical, in place."""

    @abstractmethod
    def shift(self, seq: SequenceId, start: int, delta: int) -> None:
        """Move the cells at positions from `start` on by `delta` (negative: down), re-rotating their keys."""

    @abstractmethod
    def reencode(
        self, seq: SequenceId, positions: Sequence[int], adapter: str | None = None, *, ahead: bool = False
    ) -> None:
        """Run the tokens of these cells again, at their own positions, over what is visible now; overwrite their rows.

        All in one pass: within it a later token sees the new rows of an earlier one. `adapter` names a loaded LoRA
        that is on for this call alone; what it writes are steering states, no longer rows of those tokens, and the
        token ids become STEERED. With `ahead` a token sees all other cells of the sequence, also those after it, but of
        these cells only the earlier ones. Raises ValueError for a cell that holds a steering state already.
        """

    @abstractmethod
    def influence(
        self,
        seq: SequenceId,
        spans: Sequence[Interval],
        *,
        layers: Sequence[int] | None = None,
        normaliser: Normaliser = "softmax",
    ) -> tuple[list[int], Tensor]:
        """How much each token after the first span's start, outside all spans, attended to the spans' cells.

        Returns those positions, ascending, and scores, float32 [layers, cells], the mean over heads. `layers`: probe
        layers, by default all that queries are kept of. Call it before the spans are dropped.
        """

    @abstractmethod
    def deviation(self, seq: SequenceId, positions: Sequence[int], layer: int = 1) -> Tensor:
        """How far K and V of these cells at `layer` are from what they would be if re-encoded now. Changes nothing.

        One number a position: the Euclidean norm over heads and dimensions (CacheBlend, arXiv 2405.16444, section 4).
        Costs a forward pass of these tokens through the layers up to `layer`.
        """

    @abstractmethod
    def read_cells(self, seq: SequenceId, positions: Sequence[int]) -> Cells:
        """A copy of these cells."""

    @abstractmethod
    def write_cells(self, seq: SequenceId, cells: Cells) -> None:
        """Put cells back, bit-identical, whether or not a cell stands at those positions now."""
