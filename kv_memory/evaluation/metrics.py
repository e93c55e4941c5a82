"""Metrics against never-saw (method.md, "Metrics")."""

from __future__ import annotations

from torch import Tensor


def mean_kl(reference: Tensor, other: Tensor) -> float:
    """Return the mean over tokens of KL(reference || other), in nats.

    Both are log-probabilities [tokens, vocabulary].
    """
    # Float32 rounds each token's normaliser, which alone gives two equal caches a divergence of up to 1e-7 or so.
    reference, other = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((reference.exp() * (reference - other)).nan_to_num(0.0).sum(-1).mean().clamp_min(0.0))
