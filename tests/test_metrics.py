"""The divergence from never-saw: what rounding alone leaves is nothing beside what an eraser leaves."""

from __future__ import annotations

import torch

from kv_memory.evaluation.metrics import mean_kl


def test_the_same_distribution_rounded_otherwise_has_no_divergence() -> None:
    logits = torch.randn(60, 272, generator=torch.Generator().manual_seed(0)) * 5
    one, other = logits.log_softmax(-1), (logits + 3).log_softmax(-1)
    assert (one - other).abs().max() > 0  # rounding
    assert mean_kl(one, other) < 1e-11


def test_it_is_the_divergence_in_nats_also_where_something_is_impossible() -> None:
    reference, other = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert abs(mean_kl(reference, other) - 0.5 * torch.tensor(2.0).log().item()) < 1e-7
