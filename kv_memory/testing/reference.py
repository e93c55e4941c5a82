"""References that engines are compared with: transformers' own forward pass without a cache, and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kv_memory.engines.base import Cells, SequenceId
from kv_memory.engines.parts import CellEdit, CellRows, Scoring


def plain_logits(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int] | None = None) -> Tensor:
    """Compute logits [ids, vocabulary] in a pass without a cache, of each token over all before it, at `positions`."""
    at = torch.tensor([list(range(len(ids)) if positions is None else positions)])
    # NOTE: the mask of ones keeps transformers from taking a jump in positions for the start of another sequence.
    seen = torch.ones(1, len(ids), dtype=torch.int64)
    with torch.no_grad():
        output = model(torch.tensor([list(ids)]), position_ids=at, attention_mask=seen, use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Assert that two tensors are equal but for the order of float32 additions: 1e-5 of the largest value."""
    assert actual.shape == expected.shape
    actual, expected = actual.cpu(), expected.cpu()
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5, f"relative error {float(error):.2e}"


def next_log_probs(engine: Scoring, seq: SequenceId) -> Tensor:
    """Return the log-probabilities [vocabulary] after the last cell."""
    return engine.score(seq, [0])[0].cpu()


def assert_same_cells(actual: Cells, expected: Cells) -> None:
    """Assert that cells are bit-identical and at the same positions."""
    assert (actual.positions, actual.token_ids) == (expected.positions, expected.token_ids)
    assert torch.equal(actual.keys, expected.keys)
    assert torch.equal(actual.values, expected.values)
    assert (actual.queries is None) == (expected.queries is None)
    if actual.queries is not None and expected.queries is not None:
        assert torch.equal(actual.queries, expected.queries)


def all_cells(engine: CellRows, seq: SequenceId) -> Cells:
    """Copy the whole sequence."""
    return engine.read_cells(seq, engine.positions(seq))


def without(values: Sequence[int], *spans: tuple[int, int]) -> list[int]:
    """Return the values at indices that no span holds."""
    return [value for i, value in enumerate(values) if not any(start <= i < end for start, end in spans)]


def random_moves(engine: CellEdit, seq: SequenceId, random: Random, count: int) -> None:
    """Move the cells from a random one on by a random distance, up or down, this many times."""
    for _ in range(count):
        positions = engine.positions(seq)
        first = random.randrange(len(positions))
        lowest = (positions[first - 1] + 1 if first else 0) - positions[first]
        engine.shift(seq, positions[first], random.randint(lowest, engine.max_positions - 1 - positions[-1]))


def rotated(rows: Tensor, frequencies: Tensor, delta: int) -> Tensor:
    """Rotate rows [..., head_dim] by `delta` positions, pair (i, i + rotary / 2) by `frequencies[i]` a position.

    RoFormer (arXiv 2104.09864), equation 34, with the pairs as in GPT-NeoX; dimensions beyond the pairs stay.
    """
    half, frequencies = len(frequencies), frequencies.to(rows.device)
    pairs = torch.complex(rows[..., :half].double(), rows[..., half : 2 * half].double())
    turned = pairs * torch.polar(frequencies.new_ones(half).double(), delta * frequencies.double())
    return torch.cat([turned.real, turned.imag, rows[..., 2 * half :].double()], dim=-1).float()
