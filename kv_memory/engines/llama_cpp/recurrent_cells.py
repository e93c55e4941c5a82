"""The cells of a sequence in a model with recurrent layers, as whole states of llama.cpp that nothing looks into.

One sequence is in the context at a time; of the others, and of copies, the state is kept outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.llama_cpp.context import Context
from kv_memory.errors import UnsupportedModelError

HOME = 0
"""The sequence in the context, which has no other home."""
_BEFORE, _ALL = 6, 13
"""Tokens of the passes that try whether a model goes on from a state: longer than a convolution's kernel."""
_ROUNDING = 1e-2
"""Largest distance of logits that counts as rounding, as a share of the largest."""


@dataclass(eq=False)
class Held:
    """Cells of one sequence: in the context, or as the state that it had there."""

    outside: NDArray[np.uint8] | None = None
    """State of the sequence while it is not in the context; None while it is, and where it has no cells."""
    cells: int = 0


@dataclass(frozen=True)
class SavedState:
    """A copy of what the recurrent layers hold after some token, and of the logits after it."""

    layers: NDArray[np.uint8]
    logits: Tensor
    """[vocabulary]"""

    @property
    def size(self) -> int:
        """Return its bytes."""
        return self.layers.nbytes + self.logits.nbytes


@dataclass(frozen=True)
class Sizes:
    """Bytes that a model's cells take."""

    state: int
    """Bytes of a checkpoint."""
    cell: int
    """Bytes of a cell, in the layers that are not recurrent."""


class RecurrentCells:
    """Passes over, and copies of, the cells of the sequences of one context."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last: ref[Held] | None = None
        """The sequence in the context, while anyone has it."""

    def run(self, held: Held, tokens: Sequence[int], keep: int) -> Tensor:
        """Append tokens; return the logits [keep, vocabulary] of the last ones. What failed half way is unusable."""
        self._enter(held)
        logits = self._context.decode(HOME, tokens, held.cells, keep)
        held.cells += len(tokens)
        return logits

    def copy(self, held: Held) -> Held:
        """Return an independent copy."""
        return Held(self._state(held), held.cells)

    def save(self, held: Held, logits: Tensor) -> SavedState:
        """Copy the state of the recurrent layers."""
        self._enter(held)
        return SavedState(self._context.read_states(HOME), logits)

    def cut(self, held: Held, saved: SavedState, cells: int) -> Held:
        """Return the first `cells` cells, after which `saved` was saved; `held` stays as it is."""
        self._leave()
        other = Held(held.outside, held.cells)
        self._enter(other)
        self._context.write_states(HOME, saved.layers)
        self._context.remove(HOME, cells)
        other.cells = cells
        return other

    @property
    def _here(self) -> Held | None:
        return self._last() if self._last is not None else None

    def _state(self, held: Held) -> NDArray[np.uint8] | None:
        return self._context.read(HOME) if held is self._here and held.cells else held.outside

    def _enter(self, held: Held) -> None:
        """Put a sequence into the context, in place of the one that is there."""
        if held is self._here:
            return
        self._leave()
        if held.outside is not None:
            self._context.write(HOME, held.outside)
        held.outside, self._last = None, ref(held)

    def _leave(self) -> None:
        """Take the sequence that is in the context out of it."""
        before = self._here
        if before is not None:
            before.outside = self._state(before)
        self._last = None
        self._context.remove(HOME)

    def measured(self) -> Sizes:
        """Measure what a state and a cell take, and check that the model goes on from a kept state as if nothing had
        come after it.

        Raises UnsupportedModelError where it does not.
        """
        tokens = [token % self._context.model.vocabulary_size for token in range(1, _ALL + 1)]
        before, after = tokens[:_BEFORE], tokens[_BEFORE:]
        one = Held()
        saved = self.save(one, self.run(one, before, 1)[0])
        self.run(one, tokens[::-1], 1)
        found = self.run(self.cut(one, saved, _BEFORE), after, len(after))
        fresh = Held()
        self.run(fresh, before, 1)
        # NOTE: in the same passes, since quantised weights round by how many tokens a pass has (seen: 4 %).
        expected = self.run(fresh, after, len(after))
        if not bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max()):
            raise UnsupportedModelError(
                f"This {self._context.model.architecture} model does not go on as it should from a state that "
                "llama.cpp kept; use its transformers directory, or a model with attention in every layer."
            )
        rows = self._context.read(HOME).nbytes - self._context.read_states(HOME).nbytes
        return Sizes(saved.size, max(0, rows) // _ALL)
