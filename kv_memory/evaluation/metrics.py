"""Metrics against never-saw (method.md, "Metrics")."""

from __future__ import annotations

from torch import Tensor


def mean_kl(reference: Tensor, other: Tensor) -> float:
    """Return the mean over tokens of KL(reference || other), in nats; both are log-probabilities [tokens,
    vocabulary]."""
    reference, other = reference.double(), other.double()
    return float((reference.exp() * (reference - other)).nan_to_num(0.0).sum(-1).mean().clamp_min(0.0))
