"""References that engines are compared with: transformers' own forward pass without a cache, and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kv_memory.engines.base import Cells, SequenceId
from kv_memory.engines.parts import CellEdit, CellRows, Scoring


def plain_logits(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int] | None = None) -> Tensor:
    """Compute logits [ids, vocabulary] in a pass without a cache, of each token over all before it, at `positions`."""
    at = torch.arange(len(ids)) if positions is None else torch.tensor(list(positions))
    with torch.no_grad():
        output = model(
            torch.tensor([list(ids)]), position_ids=at[None], attention_mask=_masks(model, at), use_cache=False
        )
    logits: Tensor = output.logits[0]
    return logits


def _masks(model: PreTrainedModel, at: Tensor) -> Tensor | dict[str, Tensor]:
    """Return what the tokens at these positions see of each other.

    NOTE: a mask of ones keeps transformers from taking a jump in positions for the start of another sequence; its masks
    of windows count tokens, so that those are made here where a hole makes a difference.
    """
    config = model.config.get_text_config(decoder=True)
    window, chunk = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if not (window or chunk) or torch.equal(at, torch.arange(len(at))):
        return torch.ones(1, len(at), dtype=torch.int64)
    hidden = {"full_attention": at[None] > at[:, None]}
    if window:
        hidden["sliding_attention"] = hidden["full_attention"] | (at[:, None] - at[None] >= window)
    if chunk:
        hidden["chunked_attention"] = hidden["full_attention"] | (at[None] // chunk != at[:, None] // chunk)
    lowest = torch.finfo(torch.float32).min
    masks = {kind: torch.zeros(hides.shape).masked_fill(hides, lowest)[None, None] for kind, hides in hidden.items()}
    return masks if hasattr(config, "layer_types") else masks["sliding_attention"]


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
    for part, other in _parts(actual, expected):
        assert all(torch.equal(rows, others) for rows, others in zip(part, other, strict=True))


def flat(rows: Sequence[Tensor]) -> Tensor:
    """Return the rows of all layers as one vector, for comparisons in proportion to the largest of them."""
    return torch.cat([layer.flatten() for layer in rows])


def assert_close_cells(actual: Cells, expected: Cells) -> None:
    """Assert that cells are at the same positions, and their K, V and queries equal but for rounding."""
    assert (actual.positions, actual.token_ids) == (expected.positions, expected.token_ids)
    for part, other in _parts(actual, expected):
        assert [layer.shape for layer in part] == [layer.shape for layer in other]
        if part:
            assert_close(flat(part), flat(other))


def _parts(actual: Cells, expected: Cells) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    """Give K, V and queries beside those that are expected."""
    yield actual.keys, expected.keys
    yield actual.values, expected.values
    yield actual.queries, expected.queries


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
