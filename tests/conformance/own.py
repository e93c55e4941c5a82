"""What the engines of this package share beyond the contract."""

from __future__ import annotations

import pytest
import torch

from kv_memory.engines import attention_mass
from kv_memory.testing.conformance import Case, EngineConformance
from kv_memory.testing.conformance.case import needs
from kv_memory.testing.reference import assert_close


class OwnEngine(EngineConformance):
    """An engine that scores attention as attention_mass.py does."""

    @needs("influence")
    def test_of_many_cells_the_highest_are_asked_exactly_and_the_others_keep_their_order(
        self, one_case: Case, ids: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A share of a long context is more than those: among cells that all count as nothing the choice is blind."""
        engine, seq = one_case.engine, one_case.sequence(ids)
        _, exact = engine.influence(seq, [(20, 33)])
        monkeypatch.setattr(attention_mass, "SAMPLE", 4)  # coarse: a sample of so few cells would hold them all
        _, sampled = engine.influence(seq, [(20, 33)], normaliser="sampled")
        monkeypatch.setattr(attention_mass, "EXACT", 8)
        _, found = engine.influence(seq, [(20, 33)])
        highest = sampled[0].topk(8).indices
        others = [i for i in range(found.shape[1]) if i not in set(highest.tolist())]
        assert not torch.allclose(sampled, exact, rtol=0.01, atol=0)
        assert_close(found[0, highest], exact[0, highest])
        assert_close(found[0, others], sampled[0, others])
