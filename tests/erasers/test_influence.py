"""The settings of `influence`."""

from __future__ import annotations

import pytest
import torch

from kv_memory.engines.parts import Normaliser
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.influence import Influence
from kv_memory.errors import KVMemoryError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer


@pytest.fixture
def ids() -> list[int]:
    """60 tokens, of which none is special."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 400, (60,), generator=generator).tolist()


def test_influence_follows_at_least_one_hop() -> None:
    with pytest.raises(KVMemoryError, match="at least 1 hop"):
        Influence(hops=0)


@pytest.mark.parametrize("normaliser", ["softmax", "sampled", "none"])
def test_influence_combines_the_layers_that_it_asks(ids: list[int], normaliser: Normaliser) -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), probe_layers=(0, 1))
    seq = engine.create()
    engine.prefill(seq, [i % 250 for i in ids])
    positions, scores = engine.influence(seq, [(20, 33)], normaliser=normaliser)
    for eraser, score in (
        (Influence(5, hops=1, near=0, combine="mean", normaliser=normaliser), scores.mean(0)),
        (Influence(5, hops=1, near=0, combine="max", normaliser=normaliser), scores.amax(0)),
        (Influence(5, hops=1, near=0, layers=[1], normaliser=normaliser), scores[1]),
    ):
        best = [positions[i] for i in score.argsort(descending=True)[:5].tolist()]
        assert eraser.choose(engine, seq, [(20, 33)], 5) == sorted(best)
