"""Estimates with 95 % intervals, and a test of paired outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_Z = 1.96
_RESAMPLES = 2000


Rounded = Annotated[float, AfterValidator(lambda value: round(value, 5))]


class Estimate(BaseModel):
    """A value with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: Rounded
    low: Rounded
    high: Rounded

    @property
    def bare(self) -> bool:
        """Return whether the interval says nothing: a bootstrap over one conversation has none."""
        return self.low == self.high != 0


def wilson(hits: int, tries: int) -> Estimate:
    """Return the share `hits / tries` with Wilson's score interval; `tries` is at least 1."""
    share, square = hits / tries, _Z**2
    centre = (share + square / (2 * tries)) / (1 + square / tries)
    half = _Z * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2)) / (1 + square / tries)
    return Estimate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int = 0,
    clusters: Sequence[str] | None = None,
) -> Estimate:
    """Return the ratio of two means over the same cases, with a bootstrap interval; 0 where all are 0.

    `clusters`: for each case, a name that it shares with those that it is not independent of; the bootstrap draws
    clusters, with all their cases. By default each case is drawn alone.
    """
    import torch

    names: dict[str, int] = {}
    places = range(len(numerators)) if clusters is None else [names.setdefault(name, len(names)) for name in clusters]
    cases = torch.tensor([numerators, denominators], dtype=torch.float64)
    sums = torch.zeros(2, max(places) + 1, dtype=torch.float64).index_add(1, torch.tensor(list(places)), cases)
    draws = torch.randint(sums.shape[1], (_RESAMPLES, sums.shape[1]), generator=torch.Generator().manual_seed(seed))
    top, bottom = sums[:, draws].mean(-1)
    low, high = (top / bottom.clamp_min(1e-12)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value=float(sums[0].mean() / sums[1].mean().clamp_min(1e-12)), low=low, high=high)


def mcnemar(first: int, second: int) -> float:
    """Return the two-sided p of McNemar's exact test, of paired outcomes that differ.

    `first`, `second`: number of pairs in which the first, or the second, alone succeeds.
    """
    pairs = first + second
    tail: int = sum(math.comb(pairs, k) for k in range(min(first, second) + 1))
    return min(1.0, tail / 2 ** (pairs - 1)) if pairs else 1.0
