"""What only some engines can do, each kind of it a small abstract class, and the capabilities that follow.

An engine has a capability where it is an instance of the part, unless this model or its settings rule it out
(`Engine.ruled_out`). Callers ask for a capability by name (`lacks`) or for the part itself (`require`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from kv_memory.engines.base import Cells, Engine, SequenceId
from kv_memory.errors import UnsupportedOperationError
from kv_memory.positions import Interval

if TYPE_CHECKING:
    from torch import Tensor

Normaliser = Literal["softmax", "sampled", "none"]
"""What an influence score is divided by: `softmax` over all cells gives attention mass, at a cost of later cells times
all cells, or where many follow of the highest of them times all cells (attention_mass.EXACT); `sampled` estimates that
from an even sample of some 256 cells, at a cost of later cells times sample and spans; `none` is the logarithm of what
the softmax would divide."""


class CellEdit(Engine):
    """An engine whose cells can be removed, moved and run again. Capabilities `edit` and `shift`."""

    @abstractmethod
    def drop(self, seq: SequenceId, start: int, end: int) -> None:
        """Remove the cells at positions [start, end) and wipe their rows; all others stay bit-identical, in place."""

    @abstractmethod
    def shift(self, seq: SequenceId, start: int, delta: int) -> None:
        """Move the cells at positions from `start` on by `delta` (negative: down), re-rotating their keys."""

    @abstractmethod
    def reencode(self, seq: SequenceId, positions: Sequence[int]) -> None:
        """Run the tokens of these cells again, at their own positions, over what is visible now; overwrite their rows.

        All in one pass: within it a later token sees the new rows of an earlier one. Raises ValueError for a cell that
        holds a steering state.
        """


class AdapterPass(CellEdit):
    """An engine that can run cells again with a LoRA on. Capabilities `adapters` and `ahead`."""

    gguf_model: Path | None = None
    """The model's .gguf file, where adapters must be GGUF too; None where they are directories saved by PEFT."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter_settings: dict[str, object] = {}
        """By name of a loaded adapter, what whoever loaded it keeps beside it; the engine never looks at it."""

    @abstractmethod
    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA, for `reencode(adapter=name)`; it stays off otherwise.

        Raises ModelError, with nothing loaded, for a path that is none or was made for a model of other sizes.
        """

    @abstractmethod
    def reencode(
        self, seq: SequenceId, positions: Sequence[int], adapter: str | None = None, *, ahead: bool = False
    ) -> None:
        """See CellEdit.reencode. `adapter` names a loaded LoRA that is on for this call alone.

        What it writes are steering states, no longer rows of those tokens, and the token ids become STEERED. With
        `ahead` a token sees all other cells of the sequence, also those after it, but of these cells only the earlier
        ones.
        """


class CellRows(Engine):
    """An engine whose K and V rows can be read and put back. Capability `rows`."""

    @abstractmethod
    def read_cells(self, seq: SequenceId, positions: Sequence[int]) -> Cells:
        """A copy of these cells."""

    @abstractmethod
    def write_cells(self, seq: SequenceId, cells: Cells) -> None:
        """Put cells back, bit-identical, whether or not a cell stands at those positions now."""


class AttentionScores(Engine):
    """An engine that keeps the queries of some layers, its probe layers. Capability `influence`."""

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


class Deviation(Engine):
    """An engine that can run cells again through its first layers alone. Capability `deviation`."""

    @abstractmethod
    def deviation(self, seq: SequenceId, positions: Sequence[int], layer: int = 1) -> Tensor:
        """How far K and V of these cells at `layer` are from what they would be if re-encoded now. Changes nothing.

        One number a position: the Euclidean norm over heads and dimensions (CacheBlend, arXiv 2405.16444, section 4).
        Costs a forward pass of these tokens through the layers up to `layer`.
        """


class Scoring(Engine):
    """An engine that gives the log-probabilities of tokens. Capability `score`."""

    @abstractmethod
    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Log-probabilities [len(ids), vocabulary] before each of `ids`, were they appended. Nothing is committed."""


PARTS: dict[str, tuple[type[Engine], str]] = {
    "edit": (CellEdit, "it edits no cells"),
    "shift": (CellEdit, "it edits no cells"),
    "rows": (CellRows, "it gives no rows of its cells"),
    "influence": (AttentionScores, "it keeps no queries"),
    "adapters": (AdapterPass, "it loads no adapters"),
    "ahead": (AdapterPass, "it loads no adapters"),
    "deviation": (Deviation, "it stops at no layer"),
    "score": (Scoring, "it gives no log-probabilities of tokens"),
}
"""By capability: the part that it comes with, and why an engine without that part lacks it."""

Part = TypeVar("Part", bound=Engine)


def lacks(engine: Engine, capability: str) -> str:
    """Return why this engine lacks a capability; empty where it has it."""
    kind, absent = PARTS[capability]
    return engine.ruled_out.get(capability, "") if isinstance(engine, kind) else absent


def capabilities(engine: Engine) -> frozenset[str]:
    """Return the names of all that this engine can do beyond the core."""
    return frozenset(name for name in PARTS if not lacks(engine, name))


def unsupported(engine: Engine, capability: str) -> UnsupportedOperationError:
    """Return the error for a call that needs a capability which this engine lacks."""
    return UnsupportedOperationError(f"The engine of {engine.name} has no {capability}: {lacks(engine, capability)}.")


def require(engine: Engine, kind: type[Part], use: str) -> Part:
    """Return the engine as one that has this part, for a `use` in words.

    Raises UnsupportedOperationError where it has not.
    """
    if isinstance(engine, kind):
        return engine
    name, absent = next((name, absent) for name, (known, absent) in PARTS.items() if known is kind)
    raise UnsupportedOperationError(f"{use} needs {name}, which the engine of {engine.name} lacks: {absent}.")


def default_probe_layer(depth: int) -> int:
    """The layer whose queries an engine of so many layers keeps for `influence`, unless told otherwise.

    The one in the middle: 5 of 10 is the best in the pocket model, by far (benchmarks/ablations.md).
    """
    return depth // 2
