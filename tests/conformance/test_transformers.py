"""The engine over transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from kv_memory.engines.base import Engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.steer import Steer
from kv_memory.testing.conformance import Case
from kv_memory.testing.conformance.case import needs
from kv_memory.testing.conformance.steering import used
from kv_memory.testing.reference import all_cells, assert_close, flat
from tests.conformance.own import OwnEngine


class TestTransformers(OwnEngine):
    device = "cpu"

    def open(self, path: Path) -> Engine:
        return TransformersEngine.load(path, device=self.device, dtype="float32")

    @needs("ahead", "rows")
    def test_slots_that_see_the_suffix_see_earlier_slots_alone(self, case: Case, ids: list[int]) -> None:
        """Several passes are as one: later slots are hidden, though their old rows are still there."""
        engine, together = case.engine, case.sequence(ids)
        in_passes = engine.fork(together)
        assert isinstance(engine, TransformersEngine)
        with used(case, {"sees_suffix": True}):
            Steer().erase(engine, together, [(20, 33)])
            chunk, engine._forward.chunk = engine._forward.chunk, 4
            try:
                Steer().erase(engine, in_passes, [(20, 33)])
            finally:
                engine._forward.chunk = chunk
        assert_close(flat(all_cells(engine, in_passes).values), flat(all_cells(engine, together).values))


if torch.cuda.is_available():

    class TestTransformersOnCuda(TestTransformers):
        device = "cuda"
