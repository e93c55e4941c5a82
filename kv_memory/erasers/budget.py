"""Budgets of erasers: how many tokens after the spans are run again."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from kv_memory.arguments import check
from kv_memory.engines.base import Engine
from kv_memory.errors import ArgumentError, KVMemoryError

Unit = Literal["", "%", "ms", "left"]
"""Unit of a budget: tokens, per cent of the kept tokens after the first span, milliseconds, residual influence."""

FORMS = "tokens (32), a share of the later tokens ('25%'), a time ('50ms'), or what may be left ('0.05 left')"
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%|ms|left|)\s*")


class Rates(ABC):
    """The measured cost and effect of an eraser's budgets on one machine; a calibration has them."""

    @abstractmethod
    def tokens_within(self, eraser: str, milliseconds: float, following: int) -> int | None:
        """Return how many tokens this eraser runs again within this time; None where that was not measured."""

    @abstractmethod
    def share_leaving(self, eraser: str, left: float, following: int) -> float | None:
        """Return the smallest share of the later tokens that leaves at most this residual influence; None where it was
        not measured."""


@dataclass(frozen=True)
class Budget:
    """The number of tokens that an eraser runs again: fixed, a share, or what a time or a target allows."""

    value: float
    unit: Unit = ""

    @classmethod
    def of(cls, given: int | str | Budget) -> Budget:
        """Return the budget that a number of tokens or a text such as "25%" means. Raises ArgumentError for others."""
        if isinstance(given, Budget):
            return given
        check("budget", given, (int, str), FORMS)
        found = _FORM.fullmatch(str(given))
        value, unit = (float(found[1]), found[2]) if found else (-1.0, "")
        whole = unit != "" or value == int(value)
        if found is None or not whole or (unit == "%" and value > 100) or (unit in ("%", "ms") and value == 0):
            raise ArgumentError(f"A budget is one of {FORMS}; got {given!r}.")
        units: dict[str, Unit] = {"": "", "%": "%", "ms": "ms", "left": "left"}
        return cls(value, units[unit])

    def tokens(self, engine: Engine, eraser: str, following: int, rates: Rates | None = None) -> int:
        """Return how many of `following` later tokens are run again, at most all of them.

        But for a fixed number, never fewer than the engine runs at the cost of one (`Engine.free_tokens`). Raises
        KVMemoryError for a time or a target without rates that say what it allows.
        """
        known = self.known_tokens(following, engine.free_tokens)
        if known is not None:
            return known
        wanted: float | None = None
        if rates is not None and self.unit == "ms":
            wanted = rates.tokens_within(eraser, self.value, following)
        elif rates is not None:
            share = rates.share_leaving(eraser, self.value, following)
            wanted = None if share is None else share * following
        if wanted is None:
            raise KVMemoryError(
                f"A budget of {self} needs a calibration of this model and machine that measured {eraser!r} to reach "
                f"it with {following:,} tokens after the span; run kv-memory calibrate, or give a number of tokens or "
                "a share."
            )
        return _limited(wanted, following, engine.free_tokens)

    def known_tokens(self, following: int, free: int = 1) -> int | None:
        """Return how many of `following` later tokens a number or a share is; None for a time or a target.

        `free`: the number that costs as much as one; a share is never fewer.
        """
        if self.unit == "":
            return min(int(self.value), following)
        return _limited(self.value / 100 * following, following, free) if self.unit == "%" else None

    def __str__(self) -> str:
        return f"{self.value:.12g}{' left' if self.unit == 'left' else self.unit}"


def _limited(wanted: float, following: int, free: int) -> int:
    return min(max(math.ceil(wanted), free), following)
