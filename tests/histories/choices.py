"""What a step of a history chooses: drawn before the step, so that nothing that a call does changes what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choices:
    """Numbers, used up one after the other; once they are used up, the first option is chosen."""

    def __init__(self, numbers: bytes) -> None:
        self._numbers = numbers
        self._used = 0

    def __repr__(self) -> str:
        return f"Choices({self._numbers.rstrip(bytes(1))!r})"

    def of(self, options: Sequence[T]) -> T:
        """Return one of these options."""
        return options[self.number(0, len(options) - 1)]

    def number(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""
        drawn = self._numbers[self._used] if self._used < len(self._numbers) else 0
        self._used += 1
        return low + drawn % (high - low + 1)

    def yes(self, one_in: int = 2) -> bool:
        """Return whether something is done; it is once in so many times."""
        return self.number(0, one_in - 1) == one_in - 1


CHOICES = st.binary(min_size=64, max_size=64).map(Choices)
