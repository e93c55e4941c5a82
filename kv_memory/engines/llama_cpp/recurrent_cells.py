"""The cells of a sequence in a model with recurrent layers, as whole states of llama.cpp that nothing looks into.

One sequence is in the context at a time; of the others, and of copies, the state is kept outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.llama_cpp.context import GUARD, Context
from kv_memory.errors import UnsupportedModelError

HOME = GUARD + 1
"""The sequence in the context."""
_BEFORE, _ALL = 6, 13
"""Tokens of the passes that try whether a model goes on from a state: longer than a convolution's kernel."""
_ROUNDING = 1e-2
"""Largest distance from the logits of one pass that counts as rounding, as a share of the largest logit."""


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


class RecurrentCells:
    """Passes over, and copies of, the cells of the sequences of one context."""

    def __init__(self, context: Context) -> None:
        """Raise UnsupportedModelError where the model does not go on from a state that was kept."""
        self._context = context
        self._here: Held | None = None
        self.state_size = self._try()
        """Bytes of a checkpoint."""

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
        other = self.copy(held)
        self._enter(other)
        self._context.write_states(HOME, saved.layers)
        self._context.remove(HOME, cells)
        other.cells = cells
        return other

    def forget(self, held: Held) -> None:
        """Release the cells of a sequence that is deleted."""
        if self._here is held:
            self._context.remove(HOME)
            self._here = None

    def _state(self, held: Held) -> NDArray[np.uint8] | None:
        return self._context.read(HOME) if held is self._here and held.cells else held.outside

    def _enter(self, held: Held) -> None:
        """Put a sequence into the context, in place of the one that is there."""
        if held is self._here:
            return
        if self._here is not None:
            self._here.outside = self._state(self._here)
            self._context.remove(HOME)
        self._here = None
        if held.outside is not None:
            self._context.write(HOME, held.outside)
        held.outside, self._here = None, held

    def _try(self) -> int:
        """Go back to a kept state, and on from there; return the bytes of one."""
        tokens = [token % self._context.model.vocabulary_size for token in range(1, _ALL + 1)]
        whole = self.run(Held(), tokens, _ALL - _BEFORE)
        one = Held()
        saved = self.save(one, self.run(one, tokens[:_BEFORE], 1)[0])
        self.run(one, tokens[::-1], 1)
        back = self.cut(one, saved, _BEFORE)
        found = self.run(back, tokens[_BEFORE:], _ALL - _BEFORE)
        self.forget(back)
        if not bool((found - whole).abs().max() <= _ROUNDING * whole.abs().max()):
            raise UnsupportedModelError(
                f"This {self._context.model.architecture} model does not go on from a state that llama.cpp kept as it "
                "would in one pass; use its transformers directory, or a model with attention in every layer."
            )
        return saved.size
