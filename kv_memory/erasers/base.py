"""What an eraser is: one way to take spans out of a cache, composed of engine primitives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.errors import UnsupportedOperationError


@dataclass(frozen=True)
class Erasure:
    """What an eraser did."""

    recomputed: int
    """Tokens that went through the model again, in whole or (selective's search) in part."""
    moves: tuple[tuple[int, int], ...] = ()
    """(position, delta), ascending: a kept cell that stood at or after `position` (and before the next entry's) now
    stands `delta` further; empty when all kept cells stayed where they were."""


class Eraser(ABC):
    """One way to erase. Small, stateless but for its settings, the same for every engine."""

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """The cache afterwards equals that of a conversation that never had the spans."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the boolean engine capabilities without which it cannot run."""

    @abstractmethod
    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """Take the cells of `spans` (ascending, disjoint, not empty, all cells present) out of the sequence.

        `approximate_from`: the first position that an earlier, approximate erasure may have left its mark on; an exact
        eraser starts there if that is before the spans.
        """

    def check(self, engine: Engine) -> None:
        """Raise UnsupportedOperationError, before anything is erased, where the engine lacks what this eraser needs."""
        lacking = sorted(need for need in self.needs if not getattr(engine.capabilities, need))
        if lacking:
            raise UnsupportedOperationError(
                f"The eraser {self.name!r} needs {' and '.join(lacking)}, which the engine of {engine.name} lacks; use "
                "'drop' or 'recompute'."
            )


def kept_after(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
    """The positions after the first span's start that no span holds: those that a span can have influenced."""
    erased = {position for start, end in spans for position in range(start, end)}
    return [p for p in engine.positions(seq) if p >= spans[0][0] and p not in erased]


def drop_all(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> None:
    """Remove the cells of all spans."""
    for start, end in spans:
        engine.drop(seq, start, end)
