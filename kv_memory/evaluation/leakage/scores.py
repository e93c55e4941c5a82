"""Leakage as numbers: exposure of a canary, and how well a score tells members from others."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def exposure(scores: Sequence[float]) -> float:
    """Compute the exposure, in bits, of the first of these log-probabilities among all: log2 |R| - log2 rank.

    Carlini et al., "The Secret Sharer", arXiv 1802.08232, section 4.2, with sampled values instead of all values of the
    form: log2 |R| at most, 0 for the least likely. Equal scores share their ranks.
    """
    own, others = scores[0], scores[1:]
    rank = 1 + sum(other > own for other in others) + sum(other == own for other in others) / 2
    return math.log2(len(scores)) - math.log2(rank)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Return the chance that a member scores higher than another (half for a tie): 0.5 tells nothing, 1 all."""
    ranked = sorted(others)
    below = [(bisect_left(ranked, score) + bisect_right(ranked, score)) / 2 for score in members]
    return sum(below) / (len(members) * len(others))


def threshold(others: Sequence[float], rate: float = 0.01) -> float:
    """Return the lowest of these scores that at most a share `rate` of them exceeds."""
    ranked = sorted(others, reverse=True)
    return ranked[int(rate * len(ranked))]
