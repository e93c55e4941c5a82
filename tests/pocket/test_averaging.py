from __future__ import annotations

import torch

from pocket_training.train import mean_weights


def test_the_mean_of_two_sets_of_weights() -> None:
    mean = mean_weights([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 2.0])}], (0.3, 0.7))
    torch.testing.assert_close(mean["w"], torch.tensor([0.7, 2.0]))
