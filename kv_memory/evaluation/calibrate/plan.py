"""The sizes of a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from kv_memory.errors import KVMemoryError
from kv_memory.evaluation.cases import INSIDE, NEAR

SHORTEST_CONVERSATION = 256


@dataclass(frozen=True)
class Plan:
    """The sizes and seed of a calibration; the default ones take some minutes of one core for 0.1 B parameters."""

    spans: tuple[int, ...] = (16, 64, 256)
    """Numbers of tokens of the spans of a text; those of conversations are whole messages."""
    followings: tuple[int, ...] = (128, 512, 1024)
    """Numbers of tokens after the span."""
    cases: int = 3
    """Number of cases of each length."""
    probes: int = 0
    """Number of questions of each class and length that the model answers; 0 asks none."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(*self.spans, *self.followings, self.cases) < 1 or self.probes < 0:
            raise KVMemoryError("Spans, lengths and the number of cases of a calibration are at least 1.")

    @property
    def conversations(self) -> tuple[int, ...]:
        """Return the lengths of the conversations that questions are about, in tokens.

        Lengths below `SHORTEST_CONVERSATION` are left out: they hold too little to ask about.
        """
        return tuple(following for following in self.followings if following >= SHORTEST_CONVERSATION)

    @property
    def longest(self) -> int:
        """Return the number of tokens of a text's longest context, with what is scored after it."""
        return 2 * max(self.spans) + max(self.followings) * 11 // 10 + 4 * NEAR + INSIDE
