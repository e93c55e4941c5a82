"""Estimates with 95 % intervals."""

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


def wilson(hits: int, tries: int) -> Estimate:
    """Return the share `hits / tries` with Wilson's score interval; `tries` is at least 1."""
    share, square = hits / tries, _Z**2
    centre = (share + square / (2 * tries)) / (1 + square / tries)
    half = _Z * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2)) / (1 + square / tries)
    return Estimate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Return the ratio of two means over the same cases, with a bootstrap interval over cases; 0 where all are 0."""
    import torch

    pairs = torch.tensor([numerators, denominators], dtype=torch.float64)
    draws = torch.randint(pairs.shape[1], (_RESAMPLES, pairs.shape[1]), generator=torch.Generator().manual_seed(seed))
    top, bottom = pairs[:, draws].mean(-1)
    low, high = (top / bottom.clamp_min(1e-12)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value=float(pairs[0].mean() / pairs[1].mean().clamp_min(1e-12)), low=low, high=high)
