"""The base class of erasers: an eraser is one way to take spans out of a cache, composed of engine primitives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kv_memory.engines.base import STEERED, Cells, Engine, SequenceId
from kv_memory.engines.parts import CellEdit, CellRows, lacks, require
from kv_memory.erasers.budget import Budget, Rates
from kv_memory.erasers.steering import steering_of
from kv_memory.errors import UnsupportedOperationError
from kv_memory.positions import Interval, moved

DEFAULT_BUDGET = "25%"
"""Budget of an eraser that is given none: what documents need in real models (docs/results.md)."""


@dataclass(frozen=True)
class Erasure:
    """The result of an erasure: what was recomputed, moved and steered."""

    recomputed: int
    """Number of tokens that went through the model again, through all its layers or (in `selective`'s search) through
    the first ones alone."""
    moves: tuple[tuple[int, int], ...] = ()
    """(position, delta), positions ascending: the position of each kept cell that was at or after `position`, and
    before that of the next entry, has changed by `delta`. Empty when all kept cells stayed where they were."""
    steered: tuple[Interval, ...] = ()
    """Position intervals, within the spans, of the cells that are kept and hold steering states; ascending and
    disjoint. Positions are those after the erasure."""
    note: str = ""
    """Sentence about what was done otherwise than the eraser says, and why; empty where nothing was."""
    undo: Cells | None = None
    """A copy of the spans' cells from before the erasure: `CellRows.write_cells` puts them back, bit-identical. None
    unless it was asked for; see `Eraser.erase_undoably`."""


class Eraser(ABC):
    """One way to erase spans of a sequence. Small, without state but for its settings, the same for every engine."""

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """Whether the cache afterwards equals that of a conversation that never had the spans."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the capabilities (keys of engines.parts.PARTS) without which the eraser cannot run; "steering" stands
    for a trained eraser that is loaded."""
    undoable: ClassVar[bool] = False
    """Whether the eraser changes the spans' cells and no others, so that they can be put back."""

    @property
    def label(self) -> str:
        """Return the name, with the budget where there is one: what `get_eraser` makes the same eraser of."""
        return self.name

    @abstractmethod
    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """Erase `spans`, intervals of positions, from the sequence.

        The spans are ascending and disjoint, none is empty, and each position in them holds a cell. `approximate_from`:
        the first position that an earlier, approximate erasure may have affected; an exact eraser starts there if that
        is before the spans. Steering states of earlier erasures are kept; only an exact eraser removes those after its
        start. Where the sequence would end in steering states, the caller truncates them.
        """

    def erase_undoably(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """Erase as `erase` does, and return the erasure with its `undo`, a copy of the spans' cells.

        `undo` is None unless the eraser is `undoable`. Raises UnsupportedOperationError where it is and the engine has
        no CellRows.
        """
        undo = None
        if self.undoable:
            positions = [position for start, end in spans for position in range(start, end)]
            undo = require(engine, CellRows, "To undo an erasure exactly").read_cells(seq, positions)
        return replace(self.erase(engine, seq, spans, approximate_from), undo=undo)

    def lacking(self, engine: Engine) -> dict[str, str]:
        """Return the capabilities that the eraser needs and the engine lacks, in alphabetical order, each with the
        reason."""
        reasons = {need: _lacks(engine, need) for need in sorted(self.needs)}
        return {need: reason for need, reason in reasons.items() if reason}

    def check(self, engine: Engine) -> None:
        """Raise UnsupportedOperationError, before anything is erased, where the engine lacks what this eraser needs."""
        lacking = self.lacking(engine)
        if not lacking:
            return
        needs = f"The eraser {self.name!r} needs {' and '.join(lacking)}"
        others = "'recompute'" if lacks(engine, "edit") else "'drop' or 'recompute'"
        if list(lacking) == ["steering"]:
            raise UnsupportedOperationError(
                f"{needs}, and no trained eraser of {engine.name} is loaded; give Memory(eraser=DIRECTORY), or use "
                f"{others}."
            )
        reasons = " and ".join(dict.fromkeys(lacking.values()))
        raise UnsupportedOperationError(f"{needs}, which the engine of {engine.name} lacks: {reasons}; use {others}.")


def _lacks(engine: Engine, need: str) -> str:
    if need == "steering":
        return "" if steering_of(engine) else "no trained eraser is loaded"
    return lacks(engine, need)


class PartialRecompute(Eraser):
    """An eraser that takes the spans out, then recomputes some of the kept tokens after them in one pass.

    `budget`: how many, as a number of tokens, a share ("25%"), a time ("50ms") or what may be left ("0.05 left"); see
    budget.py. `rates`: what times and targets allow on this machine.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"edit"})

    def __init__(self, budget: int | str | Budget = DEFAULT_BUDGET, *, rates: Rates | None = None) -> None:
        self.budget = Budget.of(budget)
        self.rates = rates

    @property
    def label(self) -> str:
        """Return the name with the budget."""
        return f"{self.name} {self.budget}"

    def with_rates(self, rates: Rates) -> Self:
        """Return this eraser with these rates, which it asks where its budget is a time or a target."""
        if self.budget.unit in ("", "%"):
            return self
        found = copy(self)
        found.rates = rates
        return found

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        assert isinstance(engine, CellEdit), "checked"
        if not spans:
            return Erasure(recomputed=0)
        later = kept_after(engine, seq, spans)
        chosen = self.choose(engine, seq, spans, self.budget.tokens(engine, self.name, len(later), self.rates))
        done = self.remove(engine, seq, spans)
        engine.reencode(seq, [moved(position, done.moves) for position in chosen])
        return replace(done, recomputed=done.recomputed + len(chosen))

    @abstractmethod
    def choose(self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], count: int) -> list[int]:
        """Return the positions of at most `count` tokens to recompute, ascending, as they are before the spans are
        taken out."""

    def remove(self, engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> Erasure:
        """Take the spans out of the sequence: drop their cells, which leaves a hole."""
        drop_all(engine, seq, spans)
        return Erasure(recomputed=0)


def kept_after(engine: Engine, seq: SequenceId, spans: Sequence[Interval]) -> list[int]:
    """Return the positions of the tokens after the first span's start and outside all spans: those that a span can have
    influenced. Steering states are left out."""
    erased = {position for start, end in spans for position in range(start, end)}
    return [p for p, token in engine.cells(seq) if p >= spans[0][0] and p not in erased and token != STEERED]


def first_after(later: Sequence[int], spans: Sequence[Interval], count: int) -> list[int]:
    """Return the first `count` of the kept positions `later` after the spans, the same number after each, ascending."""
    chosen: set[int] = set()
    for left, (_, end) in zip(range(len(spans), 0, -1), reversed(spans), strict=True):
        after = [position for position in later[bisect_left(later, end) :] if position not in chosen]
        chosen.update(after[: (count - len(chosen)) // left])
    return sorted(chosen)


def drop_all(engine: CellEdit, seq: SequenceId, spans: Sequence[Interval]) -> None:
    """Remove the cells of all spans."""
    for start, end in spans:
        engine.drop(seq, start, end)
