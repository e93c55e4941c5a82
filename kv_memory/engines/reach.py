"""How far back the tokens of a layer see."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reach:
    """The cells that a token of a layer sees: those at positions up to its own, or some of them."""

    window: int | None = None
    """Number of positions that a token sees, its own included (sliding window); None: all."""
    chunk: int | None = None
    """Positions are divided into chunks of this many, and a token sees those of its own chunk alone; None: all."""

    @property
    def whole(self) -> bool:
        """Return whether a token sees all that is before it."""
        return self.window is None and self.chunk is None

    def hides(self, asking: Tensor, held: Tensor) -> Tensor:
        """Return which of the cells at positions `held` each token at `asking` does not see: bool [asking, held]."""
        asking, held = asking[:, None], held[None, :]
        hidden = held > asking
        if self.window is not None:
            hidden |= held <= asking - self.window
        if self.chunk is not None:
            hidden |= held.div(self.chunk, rounding_mode="floor") != asking.div(self.chunk, rounding_mode="floor")
        return hidden

    def parts(self, position: int, delta: int) -> bool:
        """Return whether a cell at `position` gets into another chunk when it moves by `delta`."""
        return self.chunk is not None and position // self.chunk != (position + delta) // self.chunk


WHOLE = Reach()
"""A token sees all that is before it."""
