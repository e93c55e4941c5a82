"""What the engines of this package share beyond the contract."""

from __future__ import annotations

import pytest

from kv_memory.engines import attention_mass
from kv_memory.testing.conformance import Case, EngineConformance
from kv_memory.testing.conformance.case import needs
from kv_memory.testing.reference import assert_close


class OwnEngine(EngineConformance):
    """An engine that scores attention as attention_mass.py does."""

    @needs("influence")
    def test_of_many_cells_the_highest_are_asked_exactly(
        self, one_case: Case, ids: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        _, exact = engine.influence(seq, [(20, 33)])
        monkeypatch.setattr(
            attention_mass, "EXACT", 8
        )  # the sample holds all of so few cells, and finds the right ones
        _, found = engine.influence(seq, [(20, 33)])
        best = exact[0].topk(8).indices
        assert_close(found[0, best], exact[0, best])
        assert set(found[0].nonzero()[:, 0].tolist()) == set(best.tolist())
