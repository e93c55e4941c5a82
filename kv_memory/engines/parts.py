"""Capabilities that only some engines have, in small abstract classes ("parts").

An engine has a capability where it is an instance of the part, unless this model or its settings rule it out
(`Engine.ruled_out`). Callers ask for a capability by name (`lacks`) or for the part itself (`require`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from kv_memory.engines.base import Cells, Engine, SequenceId
from kv_memory.errors import ArgumentError, UnsupportedOperationError
from kv_memory.positions import Interval

if TYPE_CHECKING:
    from torch import Tensor

Normaliser = Literal["softmax", "sampled", "none"]
"""Divisor of an influence score.

`softmax`: over all cells, which gives attention mass, at a cost of later cells times all cells; where there are many
later cells, of the highest of them times all cells, and `sampled` for the others (attention_mass.EXACT). `sampled`: an
estimate of it from an even sample of some 256 cells, at a cost of later cells times sample and spans. `none`: no
divisor; the score is the logarithm of what the softmax would divide.
"""


ProbeLayers = tuple[int, ...] | Literal["all"] | None
"""Layers whose queries an engine keeps for `influence`, as callers name them; None: the engine's choice."""


class CellEdit(Engine):
    """An engine whose cells can be removed, moved and recomputed. Capabilities `edit` and `shift`."""

    @abstractmethod
    def drop(self, seq: SequenceId, start: int, end: int) -> None:
        """Remove the cells at positions [start, end) and wipe their rows; all others stay bit-identical, in place."""

    @abstractmethod
    def shift(self, seq: SequenceId, start: int, delta: int) -> None:
        """Move the cells at positions from `start` on by `delta` (negative: down), re-rotating their keys."""

    @abstractmethod
    def reencode(self, seq: SequenceId, positions: Sequence[int]) -> None:
        """Recompute the rows of these cells from their tokens, at their own positions, over what is visible now.

        All in one pass: within it a later token sees the new rows of an earlier one. Raises ValueError for a cell that
        holds a steering state.
        """


class AdapterPass(CellEdit):
    """An engine that can recompute cells with a LoRA on. Capabilities `adapters` and `ahead`."""

    gguf_model: Path | None = None
    """The model's .gguf file, where adapters must be GGUF too; None where adapters are directories saved by PEFT."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter_settings: dict[str, object] = {}
        """Settings that whoever loaded an adapter keeps beside it, by the adapter's name; the engine never looks at
        them."""

    @abstractmethod
    def load_adapter(self, path: str, name: str) -> None:
        """Load a LoRA, for `reencode(adapter=name)`; it stays off otherwise.

        Raises ModelError, with nothing loaded, for a path that holds no LoRA or one for a model of other sizes.
        """

    @abstractmethod
    def reencode(
        self, seq: SequenceId, positions: Sequence[int], adapter: str | None = None, *, ahead: bool = False
    ) -> None:
        """Recompute these cells as `CellEdit.reencode` does; `adapter` names a loaded LoRA that is on for this call
        alone.

        With an adapter the rows are steering states, no longer rows of those tokens, and the token ids become STEERED.
        With `ahead` a token sees all other cells of the sequence, also those after it, but of the recomputed cells only
        the earlier ones.
        """


class CellRows(Engine):
    """An engine whose K and V rows can be read and put back. Capability `rows`."""

    @abstractmethod
    def read_cells(self, seq: SequenceId, positions: Sequence[int]) -> Cells:
        """Copy these cells."""

    @abstractmethod
    def write_cells(self, seq: SequenceId, cells: Cells) -> None:
        """Put cells back, bit-identical, whether or not those positions hold a cell now."""


class AttentionScores(Engine):
    """An engine that keeps the queries of some layers, its probe layers. Capability `influence`."""

    probe_layers: tuple[int, ...] = ()
    """Layers whose queries are kept, ascending."""
    probe_memory: float = 0.0
    """Memory that is taken for the queries of one probe layer, as a share of that of K and V of all layers."""

    @abstractmethod
    def influence(
        self,
        seq: SequenceId,
        spans: Sequence[Interval],
        *,
        layers: Sequence[int] | None = None,
        normaliser: Normaliser = "softmax",
    ) -> tuple[list[int], Tensor]:
        """Compute how much each token after the first span's start, outside all spans, attended to the spans' cells.

        Returns the positions of these tokens, ascending, and scores, float32 [layers, cells], the mean over heads.
        `layers`: probe layers, by default all. Call it before the spans are dropped.
        """


class Deviation(Engine):
    """An engine that can recompute cells in its first layers alone. Capability `deviation`."""

    @abstractmethod
    def deviation(self, seq: SequenceId, positions: Sequence[int], layer: int = 1) -> Tensor:
        """Measure how far K and V of these cells at `layer` are from what `reencode` would write now. Changes nothing.

        One number a position: the Euclidean norm over heads and dimensions (CacheBlend, arXiv 2405.16444, section 4).
        Costs a forward pass of these tokens through the layers up to `layer`.
        """


class Scoring(Engine):
    """An engine that gives the log-probabilities of tokens. Capability `score`."""

    @abstractmethod
    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Compute the log-probabilities [len(ids), vocabulary] before each of `ids`, were they appended. No cell is
        changed."""


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
"""Part that each capability comes with, and the reason why an engine without that part lacks it, unless
`Engine.ruled_out` has a better one."""

Part = TypeVar("Part", bound=Engine)


def lacks(engine: Engine, capability: str) -> str:
    """Return why this engine lacks a capability; empty where it has it."""
    kind, absent = PARTS[capability]
    return engine.ruled_out.get(capability, "" if isinstance(engine, kind) else absent)


def capabilities(engine: Engine) -> frozenset[str]:
    """Return the names of all that this engine can do beyond the core."""
    return frozenset(name for name in PARTS if not lacks(engine, name))


def unsupported(engine: Engine, capability: str) -> UnsupportedOperationError:
    """Return the error for a call that needs a capability which this engine lacks."""
    return UnsupportedOperationError(f"The engine of {engine.name} has no {capability}: {lacks(engine, capability)}.")


def require(engine: Engine, kind: type[Part], use: str) -> Part:
    """Return the engine as one that has this part; `use` says in words what for.

    Raises UnsupportedOperationError where the engine is without the part.
    """
    if isinstance(engine, kind):
        return engine
    name, absent = next((name, absent) for name, (known, absent) in PARTS.items() if known is kind)
    reason = engine.ruled_out.get(name, absent)
    raise UnsupportedOperationError(f"{use} needs {name}, which the engine of {engine.name} lacks: {reason}.")


def chosen_layers(
    layers: ProbeLayers, depth: int, able: Sequence[int] | None = None, best: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the probe layers of an engine of `depth` layers, ascending; by default the one nearest to
    `default_probe_layer`.

    `able`: layers whose queries say something, by default all; none where there are none. `best`: those of them from
    which the default is taken, by default all. Raises ValueError for another layer.
    """
    every = range(depth) if able is None else able
    if layers == "all":
        return tuple(every)
    if layers is None:
        wanted = default_probe_layer(depth)
        nearest = sorted(best or every, key=lambda layer: (abs(layer - wanted), layer))
        return tuple(nearest[:1])
    if isinstance(layers, (str, int)) or not all(isinstance(layer, int) for layer in layers):
        raise ArgumentError(f'probe_layers is a tuple of layer numbers, "all" or None, not {layers!r}.')
    chosen = tuple(sorted(set(layers)))
    for layer in chosen:
        if not 0 <= layer < depth:
            raise ValueError(f"probe layer {layer} is not one of the model's {depth}")
        if layer not in every:
            raise ValueError(f"layer {layer} keeps no keys of its own, or not of all tokens; give one of {list(every)}")
    return chosen


def default_probe_layer(depth: int) -> int:
    """Return the layer whose queries an engine of `depth` layers keeps for `influence`, unless told otherwise.

    It is four sevenths down. Of SmolLM2's 30 layers and Qwen2.5-Coder-0.5B's 24 those at that place, 17 and 14, are
    among the best two by what is left on documents, memory and transcripts; some neighbours leave five times as much,
    so that a calibration is worth its time (benchmarks/ablations.md).
    """
    return min(round(4 * depth / 7), depth - 1)
