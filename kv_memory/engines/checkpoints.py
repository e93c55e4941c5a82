"""Bookkeeping of checkpoints: copies of a model's running state at some positions of its sequences, within a budget.

A recurrent layer keeps one state of all tokens so far. Nothing can be taken out of it, so that a sequence can only go
back to a copy that was made earlier, from which the tokens run again. Which copies are worth their memory is decided
here; what a state is, only the engine knows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Generic, TypeVar

from kv_memory.arguments import check
from kv_memory.engines.base import SequenceId
from kv_memory.errors import ArgumentError, ModelError

BUDGET_MB = 512.0
"""Megabytes (10^6 bytes) of checkpoints of all sequences of an engine, unless it is told otherwise."""
STRIDE = 2048
"""Tokens after a checkpoint at which another one is due where nothing is marked, as within a long document."""
NEAR = 16
"""Tokens after a checkpoint within which another one is not worth its memory."""

State = TypeVar("State")


@dataclass(frozen=True)
class CheckpointSettings:
    """Memory for checkpoints, as callers set it."""

    megabytes: float = BUDGET_MB
    """Megabytes (10^6 bytes) for those of all sequences together; with 0 none are kept."""
    device: str | None = None
    """Device on which they are kept, such as "cpu"; None: where the model's states are."""

    @classmethod
    def of(cls, megabytes: float | None, device: str | None) -> CheckpointSettings | None:
        """Return the settings, or None where nothing is set. Raises ArgumentError for a value that is none."""
        check("checkpoint_mb", megabytes, (int, float, NoneType), "a number of megabytes")
        check("checkpoint_device", device, (str, NoneType), "a name that torch knows, such as 'cpu'")
        if megabytes is None and device is None:
            return None
        size = BUDGET_MB if megabytes is None else megabytes
        if not 0 <= size < 1e12:
            raise ArgumentError(f"checkpoint_mb is a number of megabytes, at least 0, not {megabytes}.")
        size = float(size)
        return cls(size, device)


def refuse_checkpoints(name: object, checkpoints: CheckpointSettings | None) -> None:
    """Raise ModelError where checkpoints are set for a model that needs none."""
    if checkpoints is not None:
        raise ModelError(
            f"{name} has no recurrent layers, so that it needs no checkpoints; leave out checkpoint_mb and "
            "checkpoint_device."
        )


@dataclass(frozen=True, eq=False)
class Checkpoint(Generic[State]):
    """A copy of the state after all cells below a position. It never changes, so that forks share it."""

    position: int
    state: State
    size: int
    """Bytes."""


class Checkpoints(Generic[State]):
    """The checkpoints of all sequences of an engine, and the marks at which it is to keep them.

    Where they exceed the budget, the one goes that saves least: without it, a truncation there would run the tokens
    from the checkpoint before, and it saves a share of these. Old ones save a small share each, so that they end up at
    distances that grow with their age, and a truncation anywhere runs little more than what follows it. Of equals that
    of the sequence that was not used for longest goes.
    """

    def __init__(self, budget: float, end: Callable[[SequenceId], int], near: int = NEAR) -> None:
        """Create the bookkeeping. `budget`: bytes; `end`: function that returns a sequence's next position; `near`:
        tokens after a checkpoint within which another one is not worth its memory."""
        self.budget = budget
        self._end = end
        self._near = near
        self._held: dict[SequenceId, list[Checkpoint[State]]] = {}
        """Checkpoints by sequence, positions ascending; the sequence that was used last comes last."""
        self._marks: dict[SequenceId, set[int]] = {}

    @property
    def bytes(self) -> int:
        """Return the memory of all checkpoints; one that sequences share counts once."""
        return sum({id(one): one.size for held in self._held.values() for one in held}.values())

    def positions(self, seq: SequenceId) -> list[int]:
        """Return where a sequence has checkpoints, ascending."""
        return [one.position for one in self._held.get(seq, ())]

    def before(self, seq: SequenceId, position: int) -> Checkpoint[State] | None:
        """Return the last checkpoint at or before this position; None where the sequence has to start again."""
        known = self._held.get(seq, [])
        found = bisect_right(self.positions(seq), position)
        return known[found - 1] if found else None

    def due(self, seq: SequenceId, position: int) -> bool:
        """Return whether a checkpoint is to be kept here: at a mark, or far after the last one."""
        distance = position - self._last(seq, position)
        return self.budget > 0 and (distance >= STRIDE or (distance > self._near and position in self._marked(seq)))

    def next_due(self, seq: SequenceId, position: int) -> int:
        """Return the next position after this one at which a checkpoint is due: how far a pass may run."""
        if not self.budget:
            return position + STRIDE
        last = self._last(seq, position)
        marks = [mark for mark in self._marked(seq) if mark > position and mark - last > self._near]
        stride = last + STRIDE if last + STRIDE > position else position + STRIDE
        return min([*marks, stride])

    def keep(self, seq: SequenceId, position: int, state: State, size: int) -> None:
        """Keep a copy of the state, after the sequence's other checkpoints. `size`: bytes."""
        if size > self.budget:
            return
        held = self._held.pop(seq, [])
        self._held[seq] = [*(one for one in held if one.position < position), Checkpoint(position, state, size)]
        while self.bytes > self.budget:
            self._forget(min(self._all(), key=self._saved))

    def cut(self, seq: SequenceId, position: int) -> None:
        """Forget the checkpoints and marks after this position, where the sequence is truncated."""
        self._held[seq] = [one for one in self._held.pop(seq, []) if one.position <= position]
        self._marks[seq] = {mark for mark in self._marked(seq) if mark <= position}

    def fork(self, seq: SequenceId, new: SequenceId) -> None:
        """Give a copy of the sequence the same checkpoints and marks."""
        self._held[new] = list(self._held.get(seq, ()))
        self._marks[new] = set(self._marked(seq))

    def free(self, seq: SequenceId) -> None:
        """Forget all of a sequence."""
        self._held.pop(seq, None)
        self._marks.pop(seq, None)

    def mark(self, seq: SequenceId, positions: Iterable[int]) -> None:
        """Note that the sequence may be truncated at these positions."""
        self._marks[seq] = self._marked(seq) | set(positions)

    def marks(self, seq: SequenceId) -> list[int]:
        """Return the positions that are marked, ascending."""
        return sorted(self._marked(seq))

    def _marked(self, seq: SequenceId) -> set[int]:
        return self._marks.get(seq, set())

    def _last(self, seq: SequenceId, position: int) -> int:
        found = self.before(seq, position)
        return found.position if found is not None else 0

    def _all(self) -> list[Checkpoint[State]]:
        return list({id(one): one for held in self._held.values() for one in held}.values())

    def _saved(self, one: Checkpoint[State]) -> float:
        """Return the share of tokens that a checkpoint saves, the highest of the sequences that have it."""
        shares = []
        for seq, held in self._held.items():
            if one in held:
                place = held.index(one)
                start = held[place - 1].position if place else 0
                shares.append((one.position - start) / max(self._end(seq) - start, 1))
        return max(shares)

    def _forget(self, gone: Checkpoint[State]) -> None:
        for seq, held in self._held.items():
            self._held[seq] = [one for one in held if one is not gone]
